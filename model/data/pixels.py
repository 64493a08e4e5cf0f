"""The pixels of an image as a viewer shows it, 8 bits a channel.

Pillow's `convert` alone neglects the orientation in EXIF data, clips grey images of 16 bits at 255, and shows what lies
under transparent pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

BACKGROUND = (255, 255, 255)  # behind transparent pixels
# Decoded from their own bytes alone. Others start programs (EPS), read further files, or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
TGA_EXTENSIONS = (".tga", ".icb", ".vda", ".vst")  # the format has no signature: known by the name alone
TRANSPOSED = {  # the value of EXIF's Orientation -> what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS, MIRRORED_ACROSS, MIRRORED_DOWN = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}
EXIF_ORIENTATION, UPRIGHT = 274, 1
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 258, 262, 0


def read_image(path: str | os.PathLike[str], mode: str) -> Image.Image:
    """An image file as an image of the mode "L" or "RGB"; the first frame of an animation, the first page of several.

    Raises:
        UserError: The file cannot be read as an image.
    """
    with naming_image(path):
        return decode(path, mode)


@contextmanager
def naming_image(path: str | os.PathLike[str]) -> Iterator[None]:
    """A block that reads an image: whatever it raises is a UserError that names the file."""
    try:
        yield
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise UserError(f"{printable(path)} cannot be read as an image ({why_broken(error)})") from None


def decode(path: str | os.PathLike[str], mode: str, content: IO[bytes] | None = None) -> Image.Image:
    """As `read_image`, with Pillow's errors; `content` is that of the file where it is at hand."""
    with open_image(path, content) as image:
        return as_displayed(image, mode)


def open_image(path: str | os.PathLike[str], content: IO[bytes] | None = None) -> Image.Image:
    """An image of one of the formats above, of which only the header has been read."""
    return Image.open(path if content is None else content, formats=_formats(Path(path).suffix.lower()))


class Photo:
    """An image that has been opened, and is decoded when it is known how large it has to be.

    Args:
        image: What `open_image` returned, or an image that has been decoded already.
        mode: "L" or "RGB".
        draft: Whether JPEG files may be decoded at a half, a quarter or an eighth of their size: the decoder leaves out
            the high frequencies of each block of 8 x 8 pixels, which takes a fraction of the time.

    Attributes:
        size: Width and height of the whole image as it looks.
    """

    def __init__(self, image: Image.Image, mode: str = "RGB", *, draft: bool = True) -> None:
        self._image, self._mode, self._draft = image, mode, draft
        self._orientation = _orientation(image)
        self.size: tuple[int, int] = image.size[::-1] if self._orientation in QUARTER_TURNS else image.size

    def decode(self, least_width: float, least_height: float) -> tuple[Image.Image, int]:
        """The whole image as it looks, and how many times it is smaller than `size`: still at least as large as asked.

        It is smaller for JPEG files only, by 2, 4 or 8.
        """
        largest = min(self.size[0] / least_width, self.size[1] / least_height)
        scale = 1
        if self._draft and largest >= 2:
            scale = 8 if largest >= 8 else 4 if largest >= 4 else 2
            # None for other formats, and for images that have been decoded.
            if self._image.draft(None, (self._image.width // scale, self._image.height // scale)) is None:
                scale = 1
        return as_displayed(self._image, self._mode), scale

    def crop_box(
        self, decoded: Image.Image, scale: int, left: float, top: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """Where a part of the image lies in what was decoded `scale` times smaller: left, top, right, bottom.

        A last block that the image fills in part gives a whole pixel, which lies before the first where it is mirrored.
        """
        if self._orientation in MIRRORED_ACROSS:
            left += decoded.width * scale - self.size[0]
        if self._orientation in MIRRORED_DOWN:
            top += decoded.height * scale - self.size[1]
        return left / scale, top / scale, (left + width) / scale, (top + height) / scale


def jpeg_side(image: Image.Image) -> int:
    """The shorter side of an image that can be decoded at a smaller size; 0 for others."""
    return min(image.size) if image.format in ("JPEG", "MPO") else 0


def why_broken(error: Exception) -> str:
    """The reason why an image cannot be read, for a message of one line."""
    if isinstance(error, UnidentifiedImageError):
        return "it has no known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def image_extensions() -> frozenset[str]:
    """The usual file extensions of these formats, in lower case, with their dot."""
    known = Image.registered_extensions()
    return frozenset(extension for extension, name in known.items() if name in _formats(extension))


@cache
def _formats(extension: str) -> tuple[str, ...]:
    """Those formats that this installation of Pillow has."""
    Image.init()
    return tuple(name for name in (*FORMATS, *(["TGA"] if extension in TGA_EXTENSIONS else [])) if name in Image.OPEN)


def as_displayed(image: Image.Image, mode: str) -> Image.Image:
    """The image as it looks, upright and opaque, of the mode "L" or "RGB".

    Raises:
        ValueError: The values have no defined white: floats beyond 0 to 1, integers of 32 bits or with a sign.
    """
    image.load()
    transpose = TRANSPOSED.get(_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = _with_8_bits(image)
    elif image.has_transparency_data:
        image = _on_background(image)
    image = image.convert(mode)
    return image if transpose is None else image.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, UPRIGHT))
    except Exception:  # damaged EXIF data, of a picture that is whole
        return UPRIGHT


def _with_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits or of floats, scaled from its type's range."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    values_HW = np.asarray(image)
    if image.mode == "F":
        if not ((values_HW >= 0) & (values_HW <= 1)).all():
            raise ValueError(f"floats must be from 0 to 1, got {values_HW.min():g} to {values_HW.max():g}")
        white = 1
    elif image.mode.startswith("I;16"):
        white = 2 ** tags.get(TIFF_BITS, (16,))[0] - 1
    elif image.format in ("PNG", "PPM"):  # 16 bits, which Pillow keeps in 32
        white = 2**16 - 1
    else:
        raise ValueError("integers of 32 bits or with a sign have no defined white: convert it to 8 or 16 bits")
    shares_HW = values_HW.astype(np.float64) / white
    if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
        shares_HW = 1 - shares_HW
    if "transparency" in image.info:  # one grey value
        shares_HW[values_HW == image.info["transparency"]] = BACKGROUND[0] / 255
    return Image.fromarray(np.rint(255 * shares_HW).astype(np.uint8))


def _on_background(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied, which Pillow converts to nothing else
        image = image.convert("LA")
    background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, image.convert("RGBA"))


def printable(path: str | os.PathLike[str]) -> str:
    """A path for a message of one line: bytes that are not UTF-8, and control characters, are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
