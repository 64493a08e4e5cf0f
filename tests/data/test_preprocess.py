"""Preprocessing of a single image: what it accepts, and the values by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.image_folder import folder
from model.data.memory import Arrays, Augmentation, MemorySource
from model.data.preprocess import Preprocess, resize
from model.errors import UserError
from model.types import Normalisation

SIZE = 14  # the centre crop of 16


def of_size(channels: int, height: int, width: int) -> Preprocess:
    """Of an in-memory data set whose channels have mean 0.5 and deviation 0.25."""
    normalisation = Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels)
    return Preprocess(image_shape=(channels, height, width), normalisation=normalisation, fit=resize)


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_values_by_hand() -> None:
    image = np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8)
    torch.testing.assert_close(of_size(3, 1, 2)(image), torch.tensor([[[-2.0, 2.0]], [[-1.2, -2.0]], [[2.0, -0.4]]]))


def test_source_has_its_shape_and_normalisation() -> None:
    source = MemorySource(
        class_names=("a", "b"),
        image_shape=(1, 4, 6),
        normalisation=Normalisation(mean=(0.1,), std=(0.3,)),
        augmentation=Augmentation(),
        load=lambda: Arrays(
            train_images=pixels(4, 4, 6, 1),
            train_labels=np.zeros(4, int),
            test_images=pixels(1, 4, 6, 1),
            test_labels=np.zeros(1, int),
        ),
    )
    assert source.preprocess.image_shape == (1, 4, 6)
    assert source.preprocess.normalisation == source.normalisation


def test_grey_arrays_need_no_channel_axis() -> None:
    image = pixels(4, 6)
    assert torch.equal(of_size(1, 4, 6)(image), of_size(1, 4, 6)(image[:, :, None]))


def test_grey_arrays_become_rgb_where_the_data_set_has_three_channels() -> None:
    image = pixels(4, 6)
    assert torch.equal(of_size(3, 4, 6)(image), of_size(3, 4, 6)(np.stack([image] * 3, axis=2)))


def test_rgb_arrays_become_grey_where_the_data_set_has_one_channel() -> None:
    image = pixels(4, 6, 3)
    luminance = np.asarray(Image.fromarray(image).convert("L"))
    assert torch.equal(of_size(1, 4, 6)(image), of_size(1, 4, 6)(luminance))


def test_arrays_of_any_memory_order_are_taken() -> None:
    image = pixels(3, 6, 4).transpose(2, 1, 0)
    assert torch.equal(of_size(3, 4, 6)(image), of_size(3, 4, 6)(np.ascontiguousarray(image)))


def test_the_array_is_not_modified() -> None:
    image = pixels(4, 6, 3)
    before = image.copy()
    of_size(3, 4, 6)(image)
    assert np.array_equal(image, before)


def test_pil_images_of_the_data_sets_size_keep_their_pixels() -> None:
    image = pixels(4, 6, 3)
    assert torch.equal(of_size(3, 4, 6)(Image.fromarray(image)), of_size(3, 4, 6)(image))


def test_larger_pil_images_are_resized_with_antialiasing() -> None:
    """Stripes of one pixel become an even grey; without antialiasing they would stay black and white."""
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    resized = of_size(1, 8, 8)(Image.fromarray(stripes))
    assert resized.shape == (1, 8, 8)
    assert torch.allclose(resized, torch.zeros(()), atol=0.1)  # 127 of 255 is the mean


@pytest.mark.parametrize("as_text", [True, False])
def test_files_are_read(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(pixels(4, 6, 3)).save(path)
    assert torch.equal(of_size(3, 4, 6)(str(path) if as_text else path), of_size(3, 4, 6)(pixels(4, 6, 3)))


@pytest.mark.parametrize("content", [None, b"", b"a text"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png cannot be read as an image"):
        of_size(3, 4, 6)(path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (pixels(5, 6, 3), r"an image array must be 4 x 6 for this data set, got \(5, 6, 3\)"),
        (pixels(6, 4), r"an image array must be 4 x 6 for this data set, got \(6, 4\)"),
        (pixels(4, 6, 2), r"an image array must have 1 or 3 channels, got \(4, 6, 2\)"),
        (pixels(2, 4, 6, 3), r"must be uint8 of shape \(H, W, C\) or \(H, W\), got uint8 \(2, 4, 6, 3\)"),
        (np.zeros((4, 6, 3)), r"must be uint8 of shape \(H, W, C\) or \(H, W\), got float64 \(4, 6, 3\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_size(3, 4, 6)(image)


def test_images_with_other_channels_than_grey_or_rgb_are_arrays() -> None:
    preprocess = of_size(2, 4, 6)
    assert preprocess(pixels(4, 6, 2)).shape == (2, 4, 6)
    for image in (Image.new("RGB", (6, 4)), pixels(4, 6, 3)):
        with pytest.raises(ValueError, match="an image for this data set must be an array of 2 channels"):
            preprocess(image)


def test_a_folders_images_of_any_size_are_resized_and_cropped_as_in_evaluation(image_folder: Path) -> None:
    preprocess = folder(image_folder.parent, path=image_folder.name, image_size=SIZE).preprocess
    image = pixels(32, 40, 3)
    resized = Image.fromarray(image).resize((20, 16), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((3, 1, 17, 15))) / 255
    expected = (expected - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert np.allclose(preprocess(image).permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert torch.equal(preprocess(image), preprocess(Image.fromarray(image)))
