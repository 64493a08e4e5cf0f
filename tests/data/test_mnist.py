"""MNIST and Fashion-MNIST: downloads and file formats, with small sets in place of the real ones."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.data import mnist
from model.data.memory import Arrays, MemorySource
from model.data.store import sha256
from model.errors import UserError

RNG = np.random.default_rng(0)
SMALL = Arrays(
    train_images=RNG.integers(0, 256, (20, 28, 28, 1), np.uint8),
    train_labels=np.arange(20, dtype=np.uint8) % 10,
    test_images=RNG.integers(0, 256, (10, 28, 28, 1), np.uint8),
    test_labels=np.arange(10, dtype=np.uint8),
)


@pytest.fixture(autouse=True)
def small_and_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach a network, nor what is installed on the machine; the sets are as small as above."""

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", no_network)
    monkeypatch.setattr(mnist, "shapes", lambda *sizes: {name: array.shape for name, array in vars(SMALL).items()})
    monkeypatch.setattr(mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    for digests in ("MNIST_DIGESTS", "FASHION_DIGESTS"):
        monkeypatch.setattr(mnist, digests, {name: sha256(array) for name, array in vars(SMALL).items()})


def write_idx(folder: Path, *, compressed: bool) -> None:
    """The four files as LeCun's page describes them: magic number, sizes, bytes."""
    folder.mkdir(parents=True)
    for prefix, images, labels in (
        ("train", SMALL.train_images, SMALL.train_labels),
        ("t10k", SMALL.test_images, SMALL.test_labels),
    ):
        files = {
            f"{prefix}-images-idx3-ubyte": struct.pack(">4i", 2051, len(images), 28, 28) + images.tobytes(),
            f"{prefix}-labels-idx1-ubyte": struct.pack(">2i", 2049, len(labels)) + labels.tobytes(),
        }
        for name, content in files.items():
            path = folder / (f"{name}.gz" if compressed else name)
            path.write_bytes(gzip.compress(content) if compressed else content)


def assert_same(arrays: Arrays) -> None:
    for name, array in vars(SMALL).items():
        assert np.array_equal(getattr(arrays, name), array), name


def test_debians_package_is_used_if_the_mirror_is_unreachable(tmp_path: Path) -> None:
    write_idx(tmp_path / "debian", compressed=True)
    assert_same(mnist.fashion_mnist(tmp_path / "data").load())


@pytest.mark.parametrize(("function", "folder"), [(mnist.mnist, "MNIST"), (mnist.fashion_mnist, "FashionMNIST")])
def test_torchvisions_files_in_data_dir_are_used(
    tmp_path: Path, function: Callable[[Path], MemorySource], folder: str
) -> None:
    write_idx(tmp_path / folder / "raw", compressed=False)
    assert_same(function(tmp_path).load())


def test_the_error_tells_how_to_download_manually(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        mnist.fashion_mnist(tmp_path / "data").load()
    message = str(error.value)
    assert "no network in tests" in message
    assert "Debian's package dataset-fashion-mnist" in message
    assert message.endswith(f"download the four files *-ubyte.gz and put them into {tmp_path}/data/FashionMNIST/raw")
    assert "\n" not in message


def test_digits_are_never_flipped(tmp_path: Path) -> None:
    assert not mnist.mnist(tmp_path).augmentation.flip


def test_normalisation_is_the_published_one(tmp_path: Path) -> None:
    """As in PyTorch's MNIST example, and in the Fashion-MNIST literature, to four digits."""
    digits, clothes = mnist.mnist(tmp_path).normalisation, mnist.fashion_mnist(tmp_path).normalisation
    assert (digits.mean[0], digits.std[0]) == pytest.approx((0.1307, 0.3081), abs=5e-5)
    assert (clothes.mean[0], clothes.std[0]) == pytest.approx((0.2860, 0.3530), abs=5e-5)
