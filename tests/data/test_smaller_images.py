"""Copies of large images: made once, verified, and the same pixels in training, evaluation and predictions."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.data import smaller_images
from model.data.image_folder import folder
from model.data.image_pipeline import ImagePipeline
from model.data.smaller_images import SmallerImages, smaller_copy
from model.errors import OptionError
from model.registry import DATASETS
from model.types import SplitOptions

CPU = torch.device("cpu")
SIZE = 16


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(content: bytes | None) -> NDArray[Any]:
    assert content is not None
    return np.asarray(Image.open(io.BytesIO(content))).astype(float)


def test_a_copy_looks_like_the_resized_image() -> None:
    image = smooth(120, 90)
    copy = pixels_of(smaller_copy(image, 30, draft=True))
    assert copy.shape == (30, 40, 3)
    assert np.abs(copy - np.asarray(image.resize((40, 30), Image.Resampling.BILINEAR))).mean() < 2.5


def test_a_copy_of_a_turned_image_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    smooth(120, 90).save(tmp_path / "a.png", exif=exif)
    upright = smooth(120, 90).transpose(Image.Transpose.ROTATE_270).resize((30, 40), Image.Resampling.BILINEAR)
    with Image.open(tmp_path / "a.png") as image:
        copy = smaller_copy(image, 30, draft=True)
    assert np.abs(pixels_of(copy) - np.asarray(upright)).mean() < 2.5
    assert Image.open(io.BytesIO(copy or b"")).getexif().get(274, 1) == 1


@pytest.mark.parametrize("side", [90, 200])
def test_an_image_that_is_not_larger_has_no_copy(side: int) -> None:
    assert smaller_copy(smooth(120, 90), side, draft=True) is None


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six large photos and two small ones in each of two classes."""
    root = tmp_path / "photos"
    for seed in range(16):
        file = root / ("test" if seed >= 12 else "train") / "ab"[seed % 2] / f"{seed}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        smooth(*((30, 24) if seed in (2, 3, 14, 15) else (120, 90)), seed).save(file, quality=95)
    return root


def opened(root: Path, cache_size: int | None = 30, **own: Any) -> ImagePipeline:
    own = {"image_size": SIZE, "num_workers": 0} | own
    source = folder(root.parent, path=root.name, cache_size=cache_size, **own)
    pipeline: ImagePipeline = source.open(SplitOptions(val_size=2), seed=0, device=CPU)
    return pipeline


def batches_of(pipeline: ImagePipeline) -> list[torch.Tensor]:
    batches = [*pipeline.train_batches(0, 4), *pipeline.eval_batches("val", 4), *pipeline.eval_batches("test", 4)]
    return [batch.images for batch in batches]


def copies(root: Path) -> list[Path]:
    return sorted((root.parent / "image_folders" / "copies_30").rglob("*.jpg"))


def test_large_images_are_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = batches_of(opened(photos))
    assert len(copies(photos)) == 12
    monkeypatch.setattr(
        smaller_images, "smaller_copy", lambda image, *_, **__: None if min(image.size) <= 30 else 1 / 0
    )
    again = batches_of(opened(photos))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_copies_are_found_by_content(photos: Path) -> None:
    batches_of(opened(photos))
    before = copies(photos)
    photos.rename(photos.with_name("moved"))
    batches_of(opened(photos.with_name("moved")))
    assert copies(photos) == before


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"x" + content])
def test_a_damaged_copy_is_made_anew(photos: Path, damage: Any) -> None:
    first = batches_of(opened(photos))
    contents = [file.read_bytes() for file in copies(photos)]
    for file in copies(photos):
        file.write_bytes(damage(file.read_bytes()))
    again = batches_of(opened(photos))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert [file.read_bytes() for file in copies(photos)] == contents


@pytest.mark.parametrize("draft", [True, False])
def test_a_file_has_the_pixels_of_its_evaluation_view(photos: Path, draft: bool) -> None:
    (batch,) = opened(photos, draft=draft).eval_batches("test", 8)
    source = folder(photos.parent, path="photos", image_size=SIZE, cache_size=30, draft=draft)
    images = [source.preprocess(file) for file in sorted((photos / "test").rglob("*.jpg"))]
    assert torch.equal(torch.stack(images), batch.images)


def test_cached_outputs_of_copies_are_told_apart(photos: Path) -> None:
    assert opened(photos).views(1).config["cache_size"] == 30
    assert "cache_size" not in opened(photos, None).views(1).config


def test_without_a_writable_folder_it_is_logged_once(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = batches_of(opened(photos))
    folder_of_copies = photos.parent / "image_folders" / "copies_30"
    shutil.rmtree(folder_of_copies)
    folder_of_copies.write_text("a file")
    smaller_images._log_not_stored.cache_clear()
    with caplog.at_level("WARNING", "retort"):
        again = batches_of(opened(photos))
    assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("copies_30 cannot be written (Not a directory): large images are decoded in every epoch")


def test_copies_that_are_smaller_than_a_view_are_refused(photos: Path) -> None:
    with pytest.raises(OptionError, match="cache_size must be at least 18 for this image_size, got 17"):
        DATASETS.build("folder", photos.parent, path="photos", image_size=SIZE, cache_size=17)


def test_workers_store_the_same_copies(photos: Path, tmp_path: Path) -> None:
    first = batches_of(opened(photos, num_workers=2))
    assert len(copies(photos)) == 12
    assert all(torch.equal(one, other) for one, other in zip(first, batches_of(opened(photos)), strict=True))


def test_a_copy_is_stored_whole(tmp_path: Path) -> None:
    content = io.BytesIO()
    smooth(120, 90).save(content, "JPEG")
    copies = SmallerImages(tmp_path / "copies", 30, draft=True)
    made = np.asarray(copies.open("a.jpg", 0xAB12, content.getvalue))
    (file,) = (tmp_path / "copies").rglob("*.jpg")
    assert file.relative_to(tmp_path) == Path("copies/00/000000000000ab12.jpg")
    assert np.array_equal(np.asarray(Image.open(file)), made)
