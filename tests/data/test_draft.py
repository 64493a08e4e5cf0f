"""Large JPEG files are decoded at a smaller size: what is shown hardly changes, and it is the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.data.image_folder import folder
from model.data.image_pipeline import ImagePipeline
from model.data.image_reader import random_resized_crop, resized_center_crop
from model.data.pixels import Photo
from model.types import SplitOptions

CPU = torch.device("cpu")
WIDTH, HEIGHT, SIZE = 410, 306, 16


def smooth_pixels(seed: int = 0) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 11, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def save_jpeg(path: Path, *, orientation: int = 1, mode: str = "RGB", seed: int = 0) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_pixels(seed)).convert(mode).save(path, "JPEG", quality=95, exif=exif)
    return path


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (WIDTH, HEIGHT, (WIDTH, HEIGHT)),
        (WIDTH / 1.9, HEIGHT / 4, (WIDTH, HEIGHT)),
        (205, 153, (205, 153)),
        (1, 153, (205, 153)),
        (100, 76, (103, 77)),  # a quarter, rounded up
        (1, 1, (52, 39)),  # an eighth, the least
    ],
)
def test_an_image_is_decoded_at_the_smallest_size_that_is_enough(
    tmp_path: Path, width: float, height: float, expected: tuple[int, int]
) -> None:
    with Image.open(save_jpeg(tmp_path / "a.jpg")) as image:
        assert Photo(image).decode(width, height)[0].size == expected


def test_a_turned_image_is_decoded_at_the_size_of_what_is_shown(tmp_path: Path) -> None:
    with Image.open(save_jpeg(tmp_path / "a.jpg", orientation=6)) as image:
        photo = Photo(image)
        assert photo.size == (HEIGHT, WIDTH)
        decoded, scale = photo.decode(76, 100)
        assert (decoded.size, scale) == ((77, 103), 4)


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_other_formats_are_decoded_in_full(tmp_path: Path, extension: str) -> None:
    Image.fromarray(smooth_pixels()).save(tmp_path / f"a.{extension}")
    with Image.open(tmp_path / f"a.{extension}") as image:
        decoded, scale = Photo(image).decode(1, 1)
        assert (decoded.size, scale) == ((WIDTH, HEIGHT), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_views_hardly_change(tmp_path: Path, orientation: int, mode: str) -> None:
    path = save_jpeg(tmp_path / "a.jpg", orientation=orientation, mode=mode)

    def views(draft: bool) -> list[NDArray[Any]]:
        pixels = []
        for crop_seed in range(-1, 12):
            with Image.open(path) as image:
                photo = Photo(image, draft=draft)
                if crop_seed < 0:
                    pixels.append(np.asarray(resized_center_crop(photo, SIZE)).astype(float))
                else:
                    pixels.append(np.asarray(random_resized_crop(photo, crop_seed, SIZE)).astype(float))
        return pixels

    differences = [np.abs(one - other) for one, other in zip(views(True), views(False), strict=True)]
    assert max(difference.mean() for difference in differences) < 1.5  # of 255
    assert max(difference.max() for difference in differences) < 20
    assert sum(difference.any() for difference in differences) >= 8


def make_folder(root: Path, extension: str = "jpg") -> Path:
    for seed in range(12):
        split, name = "train" if seed < 8 else "test", "ab"[seed % 2]
        path = save_jpeg(root / split / name / f"{seed}.{extension}", orientation=6 if seed % 3 else 1, seed=seed)
        if extension != "jpg":
            Image.fromarray(smooth_pixels(seed)).save(path)
    return root


def opened(root: Path, options: SplitOptions | None = None, **own: Any) -> ImagePipeline:
    own = {"image_size": SIZE, "num_workers": 0} | own
    pipeline: ImagePipeline = folder(root.parent, path=root.name, **own).open(
        options or SplitOptions(val_size=2), seed=0, device=CPU
    )
    return pipeline


@pytest.mark.parametrize("draft", [True, False])
def test_an_image_file_has_the_pixels_of_its_evaluation_view(tmp_path: Path, draft: bool) -> None:
    root = make_folder(tmp_path / "photos")
    (batch,) = opened(root, draft=draft).eval_batches("test", 10)
    preprocess = folder(tmp_path, path="photos", image_size=SIZE, draft=draft).preprocess
    files = sorted((root / "test").rglob("*.jpg"))
    assert torch.equal(torch.stack([preprocess(file) for file in files]), batch.images)


def test_a_view_is_the_same_wherever_it_is_read(tmp_path: Path) -> None:
    pipeline = opened(make_folder(tmp_path / "photos"))
    batch = next(pipeline.train_batches(1, 4))
    again = pipeline.augmented_batch(batch.index.numpy(), batch.view.numpy())
    assert torch.equal(batch.images, again.images)


def test_cached_outputs_are_told_apart_where_pixels_may_differ(tmp_path: Path) -> None:
    jpeg, png = make_folder(tmp_path / "jpeg"), make_folder(tmp_path / "png", "png")
    assert opened(jpeg).views(1).config.get("draft") is True
    assert "draft" not in opened(jpeg, draft=False).views(1).config
    assert "draft" not in opened(jpeg, image_size=100).views(1).config  # four times as large as the images' side
    assert "draft" not in opened(png).views(1).config


def test_without_large_images_nothing_changes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos")
    one, other = (opened(root, image_size=100, draft=draft) for draft in (True, False))
    for batch, again in zip(one.train_batches(0, 4), other.train_batches(0, 4), strict=True):
        assert torch.equal(batch.images, again.images)
