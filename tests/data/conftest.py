from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CLASSES = ("ant", "bee", "cow")
PER_CLASS = {"train": 7, "test": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These batches are tiny: on a busy machine, threads would mostly wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A user's .npz file: 30 training and 10 test images of 6 x 5 in 3 classes."""
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        train_images=rng.integers(0, 256, (30, 6, 5, 3), np.uint8),
        train_labels=np.arange(30) % 3,
        test_images=rng.integers(0, 256, (10, 6, 5, 3), np.uint8),
        test_labels=np.arange(10) % 3,
    )
    return path


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A user's folder of images of 24 x 20 in three classes, each with sub-folders."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, per_class in PER_CLASS.items():
        for name in CLASSES:
            for number in range(per_class):
                file = root / split / name / f"part_{number % 2}" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    return root


@pytest.fixture
def image_table(image_folder: Path) -> Path:
    """A user's table of the images in that folder, beside them."""
    files = [file.relative_to(image_folder) for file in sorted(image_folder.rglob("*.png"))]
    rows = ["path,label,split", *(f"{file.as_posix()},{file.parts[1]},{file.parts[0]}" for file in files)]
    table = image_folder / "photos.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    return table


@pytest.fixture
def flat_folder(image_folder: Path) -> Path:
    """The same images, directly in the class folders."""
    for file in list(image_folder.rglob("*.png")):
        file.rename(file.parent.with_name(file.name))
    for folder in list(image_folder.rglob("part_*")):
        folder.rmdir()
    return image_folder
