"""The embedded images are CIFAR-10's, and a damaged file is noticed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.cifar10_mini import FOLDER, _tile, _untile, cifar10_mini, unpack
from model.data.memory import Arrays
from model.errors import UserError


@pytest.fixture(scope="module")
def mini() -> Arrays:
    return unpack()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "copy")


def test_every_class_has_500_training_and_100_test_images(mini: Arrays) -> None:
    assert np.bincount(mini.train_labels).tolist() == [500] * 10
    assert np.bincount(mini.test_labels).tolist() == [100] * 10
    assert mini.train_images.shape == (5000, 32, 32, 3)
    assert mini.test_images.shape == (1000, 32, 32, 3)


def test_first_labels_are_cifar10s(mini: Arrays) -> None:
    assert mini.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert mini.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]


def test_first_pixels_are_cifar10s(mini: Arrays) -> None:
    """The frog and the cat of every tutorial: the first pixels and the last one."""
    frog, cat = mini.train_images[0], mini.test_images[0]
    assert frog[0, :3].tolist() == [[59, 62, 63], [43, 46, 45], [50, 48, 43]]
    assert frog[31, 31].tolist() == [123, 92, 72]
    assert cat[0, :3].tolist() == [[158, 112, 49], [159, 111, 47], [165, 116, 51]]
    assert cat[31, 31].tolist() == [21, 67, 110]


def test_images_are_distinct_within_and_across_splits(mini: Arrays) -> None:
    images = np.concatenate([mini.train_images, mini.test_images])
    assert len({image.tobytes() for image in images}) == 6000


def test_the_full_sets_normalisation_fits(mini: Arrays) -> None:
    normalisation = cifar10_mini(Path("unused")).normalisation
    for channel in range(3):
        values = mini.train_images[..., channel].ravel()
        assert values.mean() / 255 == pytest.approx(normalisation.mean[channel], abs=0.005)
        assert values.std() / 255 == pytest.approx(normalisation.std[channel], abs=0.005)


def test_files_are_small_enough_for_any_host() -> None:
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    assert max(sizes) < 2_000_000
    assert sum(sizes) < 11_000_000


def test_untiling_inverts_tiling() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    sheet = _tile(images)
    assert sheet.shape == (64, 640, 3)
    assert np.array_equal(sheet[32:, 32:64], images[21])
    assert np.array_equal(_untile(sheet), images)


def test_a_missing_sheet_is_named(copy: Path) -> None:
    for sheet in copy.glob("test_*.webp"):
        sheet.unlink()
    with pytest.raises(UserError, match=r"the embedded images cannot be read .* restore the files"):
        unpack(copy)


def test_a_truncated_sheet_is_noticed(copy: Path) -> None:
    (copy / "train_3.webp").write_bytes((FOLDER / "train_3.webp").read_bytes()[:1000])
    with pytest.raises(UserError, match="restore the files"):
        unpack(copy)


def test_a_changed_pixel_is_noticed(copy: Path) -> None:
    sheet = np.array(Image.open(copy / "test_0.webp"))
    sheet[5, 5] ^= 1
    Image.fromarray(sheet).save(copy / "test_0.webp", lossless=True, method=0)
    with pytest.raises(UserError, match="the embedded test_images have changed"):
        unpack(copy)
