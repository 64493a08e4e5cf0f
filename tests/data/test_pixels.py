"""The pixels of image files as they look: expected values are those that the files were made of."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.data.image_folder import folder
from model.data.pixels import as_displayed, printable, read_image
from model.errors import UserError
from model.types import SplitOptions

Pixels = NDArray[Any]
UPRIGHT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
# EXIF 2.3, 4.6.4: on which side of the upright image the first row and the first column of the stored one lie.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def read(path: Path, mode: str = "RGB") -> Pixels:
    return np.asarray(read_image(path, mode))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, *, bits: int, colour: int, width: int, row: bytes, extra: bytes = b"") -> Path:
    """A PNG file of one row; `colour` is 0 for grey, 2 RGB, 3 a palette, 4 grey with alpha, 6 RGB with alpha."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def write_tiff(path: Path, values: NDArray[Any], *, bits: int, sample_format: int = 1, photometric: int = 1) -> Path:
    """A grey TIFF file without compression; `sample_format` is 1 for unsigned, 2 for signed, 3 for floats."""
    height, width = values.shape
    data = values.tobytes()
    numbers = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    numbers |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items())
    directory = struct.pack("<H", len(numbers)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    return path


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_upright(tmp_path: Path, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"image.{extension}"
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT))).save(path, exif=exif, **options)
    assert np.array_equal(read(path), UPRIGHT)


def test_grey_images_of_16_bits_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    upright: NDArray[Any] = UPRIGHT[:, :, 0].astype(np.uint16) * 257
    Image.fromarray(np.ascontiguousarray(STORED[6](upright))).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(read(tmp_path / "image.png", "L"), UPRIGHT[:, :, 0])


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"no exif data"])
def test_damaged_exif_data_does_not_matter(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(UPRIGHT).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(read(tmp_path / "image.png"), UPRIGHT)


GREY_16 = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
GREY_8 = [0, 0, 1, 128, 255]  # 128 / 257 is nearer to 0


def test_16_bits_of_a_portable_map_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "image.pgm").write_bytes(b"P5 5 1 65535\n" + GREY_16.astype(">u2").tobytes())
    assert read(tmp_path / "image.pgm", "L").tolist() == [GREY_8]


@pytest.mark.parametrize("extension", ["png", "tif", "jp2"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"image.{extension}"
    Image.fromarray(GREY_16).save(path)
    assert read(path, "L").tolist() == [GREY_8]
    assert read(path).tolist() == [[[grey] * 3 for grey in GREY_8]]


def test_big_endian_16_bits_are_scaled(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "image.tif", GREY_16, bits=16)
    swapped = path.read_bytes().replace(GREY_16.tobytes(), GREY_16.astype(">u2").tobytes())
    little = struct.unpack_from("<I", swapped, 4)[0]
    entries = [struct.unpack_from("<HHII", swapped, little + 2 + 12 * i) for i in range(10)]
    body = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    path.write_bytes(b"MM\0*" + struct.pack(">I", little) + swapped[8:little] + struct.pack(">H", 10) + body + bytes(4))
    assert read(path, "L").tolist() == [GREY_8]


def test_16_bits_a_channel_are_scaled(tmp_path: Path) -> None:
    row = struct.pack(">6H", 65535, 0, 257, 514, 32896, 771)
    path = write_png(tmp_path / "image.png", bits=16, colour=2, width=2, row=row)
    assert read(path).tolist() == [[[255, 0, 1], [2, 128, 3]]]


@pytest.mark.parametrize(("bits", "row", "expected"), [(1, 0b01000000, [0, 255]), (2, 0b00011011, [0, 85, 170, 255])])
def test_fewer_bits_are_scaled(tmp_path: Path, bits: int, row: int, expected: list[int]) -> None:
    path = write_png(tmp_path / "image.png", bits=bits, colour=0, width=len(expected), row=bytes([row]))
    assert read(path, "L").tolist() == [expected]


def test_floats_from_0_to_1_are_scaled(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "image.tif", np.array([[0, 0.2, 1]], np.float32), bits=32, sample_format=3)
    assert read(path, "L").tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(("dtype", "white", "format_"), [(np.uint16, 65535, 1), (np.float32, 1, 3)])
def test_tiff_files_whose_white_is_zero_are_inverted(tmp_path: Path, dtype: Any, white: int, format_: int) -> None:
    values = (np.array([[0, 0.2, 1]]) * white).astype(dtype)
    path = write_tiff(tmp_path / "image.tif", values, bits=8 * values.itemsize, sample_format=format_, photometric=0)
    assert read(path, "L").tolist() == [[255, 204, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 200]], np.float32), "floats must be from 0 to 1, got 0 to 200"),
        (np.array([[0, np.nan]], np.float32), "floats must be from 0 to 1, got nan to nan"),
        (np.array([[-0.5, 1]], np.float32), "floats must be from 0 to 1, got -0.5 to 1"),
        (np.array([[0, 70000]], np.int32), "integers of 32 bits or with a sign have no defined white"),
        (np.array([[-5, 70]], np.int16), "integers of 32 bits or with a sign have no defined white"),
    ],
)
def test_values_without_a_defined_white_are_refused(tmp_path: Path, values: NDArray[Any], message: str) -> None:
    sample_format = 3 if values.dtype == np.float32 else 2
    path = write_tiff(tmp_path / "image.tif", values, bits=8 * values.itemsize, sample_format=sample_format)
    with pytest.raises(UserError, match=rf"image.tif cannot be read as an image \({message}"):
        read(path)


# Transparency ---------------------------------------------------------------------------------------------------------


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (200, 10, 10, 0)).save(tmp_path / "image.png")
    assert read(tmp_path / "image.png").tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_what_is_half_transparent_is_mixed_with_white(tmp_path: Path, extension: str) -> None:
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    Image.new("RGBA", (1, 1), (200, 100, 0, 51)).save(tmp_path / f"image.{extension}", **options)
    expected = [0.2 * 200 + 0.8 * 255, 0.2 * 100 + 0.8 * 255, 0.8 * 255]
    assert np.abs(read(tmp_path / f"image.{extension}")[0, 0] - expected).max() <= 0.5


def test_opaque_pixels_keep_their_values(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([grey, grey.T, grey[::-1]], axis=2)
    Image.fromarray(np.dstack([rgb, np.full_like(grey, 255)])).save(tmp_path / "image.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 255)]), "LA").save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "image.png"), rgb)
    assert np.array_equal(read(tmp_path / "grey.png", "L"), grey)


TRANSPARENT: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "grey with alpha": ({"bits": 8, "colour": 4, "width": 2, "row": bytes([7, 0, 7, 255])}, [[255] * 3, [7] * 3]),
    "one grey": (
        {"bits": 8, "colour": 0, "width": 2, "row": bytes([7, 9]), "extra": chunk(b"tRNS", b"\0\x07")},
        [[255] * 3, [9] * 3],
    ),
    "one grey of 16 bits": (
        {"bits": 16, "colour": 0, "width": 2, "row": bytes([1, 1, 2, 2]), "extra": chunk(b"tRNS", b"\1\1")},
        [[255] * 3, [2] * 3],
    ),
    "black of 1 bit": (
        {"bits": 1, "colour": 0, "width": 2, "row": b"\x40", "extra": chunk(b"tRNS", b"\0\0")},
        [[255] * 3, [255] * 3],
    ),
    "one colour": (
        {"bits": 8, "colour": 2, "width": 2, "row": bytes(range(6)), "extra": chunk(b"tRNS", b"\0\0\0\1\0\2")},
        [[255] * 3, [3, 4, 5]],
    ),
    "alpha of 16 bits": (
        {"bits": 16, "colour": 6, "width": 2, "row": bytes([9, 9] * 3 + [0, 0] + [8, 8] * 3 + [255, 255])},
        [[255] * 3, [8] * 3],
    ),
    "a palette's first colour": (
        {
            "bits": 8,
            "colour": 3,
            "width": 2,
            "row": bytes([0, 1]),
            "extra": chunk(b"PLTE", bytes(range(6))) + chunk(b"tRNS", b"\0"),
        },
        [[255] * 3, [3, 4, 5]],
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_every_kind_of_transparency_is_white(tmp_path: Path, kind: str) -> None:
    content, expected = TRANSPARENT[kind]
    assert read(write_png(tmp_path / "image.png", **content)).tolist() == [expected]


def test_premultiplied_alpha_is_mixed_with_white() -> None:
    grey = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)]).convert("La")
    assert abs(np.asarray(as_displayed(grey, "L")).item() - (0.2 * 100 + 0.8 * 255)) <= 1


# Colours and frames ---------------------------------------------------------------------------------------------------


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes(range(12)))
    path = write_png(tmp_path / "image.png", bits=2, colour=3, width=4, row=b"\x1b", extra=palette)
    assert read(path).tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]]


@pytest.mark.parametrize("extension", ["tif", "jpg"])
def test_inks_are_subtracted_from_white(tmp_path: Path, extension: str) -> None:
    """Pillow writes the inks of a JPEG file inverted, with Adobe's marker, as Photoshop does."""
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"image.{extension}")
    assert np.abs(read(tmp_path / f"image.{extension}").astype(int) - (255, 0, 0)).max() <= 2


def test_luma_and_chroma_are_converted() -> None:
    red = as_displayed(Image.new("YCbCr", (1, 1), (76, 85, 255)), "RGB")
    assert np.abs(np.asarray(red).astype(int) - (254, 0, 0)).max() <= 2


def test_lab_is_converted(tmp_path: Path) -> None:
    Image.new("LAB", (8, 8), (128, 128, 128)).save(tmp_path / "image.tif")
    assert np.ptp(read(tmp_path / "image.tif")[0, 0].astype(int)) <= 2  # no chroma: grey


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_the_first_frame_is_read(tmp_path: Path, extension: str) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    path = tmp_path / f"image.{extension}"
    first.save(path, save_all=True, append_images=[second], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert (read(path) == (255, 0, 0)).all()


# Which files are opened -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n", b"a text", b""]
)
def test_other_formats_are_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(UserError, match=r"image.png cannot be read as an image \(it has no known image format\)"):
        read(tmp_path / "image.png")


@pytest.mark.parametrize(("name", "format_"), [("a.jfif", "JPEG"), ("a.TGA", "TGA"), ("a", "PNG"), ("a.jpg", "PNG")])
def test_the_content_decides_on_the_format(tmp_path: Path, name: str, format_: str) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / name, format_)
    assert np.abs(read(tmp_path / name).astype(int) - (255, 0, 0)).max() <= 2


def test_messages_about_odd_paths_have_one_line() -> None:
    assert printable(b"caf\xe9\n\xc3\xa9.png".decode("utf-8", "surrogateescape")) == "caf\\xe9\\né.png"


ODD_IMAGES: dict[str, Callable[[Path], object]] = {
    "turned": lambda path: Image.fromarray(UPRIGHT).save(
        path, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "16 bits": lambda path: Image.fromarray(UPRIGHT[:, :, 0].astype(np.uint16) * 500).save(path, "PNG"),
    "transparent": lambda path: Image.new("RGBA", (9, 5), (9, 8, 7, 100)).save(path, "PNG"),
    "float": lambda path: Image.fromarray(np.full((5, 7), 0.3, np.float32)).save(path, "TIFF"),
    "one pixel": lambda path: Image.new("RGB", (1, 1), (9, 8, 7)).save(path, "PNG"),
    "a line": lambda path: Image.new("L", (3000, 1), 7).save(path, "PNG"),
}


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_a_single_image_has_the_values_of_its_evaluation_batch(image_folder: Path, kind: str) -> None:
    file = image_folder / "test" / "ant" / "part_0" / "0.png"
    ODD_IMAGES[kind](file)
    source = folder(image_folder.parent, path=image_folder.name, image_size=14, num_workers=0)
    batch = next(source.open(SplitOptions(), seed=0, device=torch.device("cpu")).eval_batches("test", 1))
    assert torch.equal(batch.images[0], source.preprocess(file))
    with Image.open(file) as image:
        assert torch.equal(batch.images[0], source.preprocess(image))
