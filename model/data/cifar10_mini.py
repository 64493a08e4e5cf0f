"""CIFAR-10 mini: 500 training and 100 test images per class of the real CIFAR-10, embedded in the project.

Always available offline: for the quickstart, for tests, for trying an idea. The images are the first of each class in
the official order, and keep that order. They are stored in `cifar10_mini/` beside this file as lossless sheets of up to
1,000 images, 20 per row, made by `pack`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..registry import DATASETS
from .cifar import CIFAR10_CLASSES, CIFAR10_NORMALISATION, CROP_AND_FLIP, cifar10
from .memory import Arrays, MemorySource
from .store import sha256

FOLDER = Path(__file__).with_suffix("")
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 100
PER_SHEET, PER_ROW = 1000, 20
DIGESTS = {
    "train_images": "8408cb1d487a81dc74bed9bf922c2fd301fe2b1423ee16016de79a0f4ea9cff1",
    "train_labels": "82b397643bd8851eecd4bf04f74438bf4aeeb7d1f9074791252a04fd9277c0f3",
    "test_images": "cc2bd4479eda140793858a9ea7f9016e6870fefd7f69f172720267e933ec44a5",
    "test_labels": "bf5fd7ab55257c7eeece32a36d229c4767d2479b59c8d506b7e35494f9cbf574",
}


@DATASETS.register
def cifar10_mini(data_dir: Path) -> MemorySource:
    """A tenth of CIFAR-10, embedded: 5,000 training and 1,000 test images, available offline."""
    return MemorySource(
        class_names=CIFAR10_CLASSES,
        image_shape=(3, 32, 32),
        normalisation=CIFAR10_NORMALISATION,
        augmentation=CROP_AND_FLIP,
        load=unpack,
    )


def unpack(folder: Path = FOLDER) -> Arrays:
    """Read the sheets and verify them.

    Raises:
        UserError: A file is missing, or its content has changed.
    """
    try:
        arrays = Arrays(
            train_images=_read_sheets(folder, "train"),
            train_labels=np.load(folder / "train_labels.npy"),
            test_images=_read_sheets(folder, "test"),
            test_labels=np.load(folder / "test_labels.npy"),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the embedded images cannot be read ({error}); restore the files") from None
    for name, array in vars(arrays).items():
        if sha256(array) != DIGESTS[name]:
            raise UserError(f"{folder}: the embedded {name} have changed; restore the files")
    return arrays


def pack(data_dir: Path, folder: Path = FOLDER) -> None:
    """Select the images from CIFAR-10 and write sheets and labels."""
    full = cifar10(data_dir).load()
    for split, images, labels, per_class in (
        ("train", full.train_images, full.train_labels, TRAIN_PER_CLASS),
        ("test", full.test_images, full.test_labels, TEST_PER_CLASS),
    ):
        by_class = [np.flatnonzero(labels == label)[:per_class] for label in range(len(CIFAR10_CLASSES))]
        selected = np.sort(np.concatenate(by_class))
        np.save(folder / f"{split}_labels.npy", labels[selected])
        for number, start in enumerate(range(0, len(selected), PER_SHEET)):
            sheet = _tile(images[selected[start : start + PER_SHEET]])
            Image.fromarray(sheet).save(folder / f"{split}_{number}.webp", lossless=True, quality=100, method=6)


def _read_sheets(folder: Path, split: str) -> NDArray[np.uint8]:
    return np.concatenate([_untile(np.asarray(Image.open(path))) for path in sorted(folder.glob(f"{split}_*.webp"))])


def _tile(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images of 32 x 32 as one sheet, row by row."""
    tiles = images_NHWC.reshape(-1, PER_ROW, 32, 32, 3)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4)).reshape(-1, PER_ROW * 32, 3)


def _untile(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images of a sheet, (N, 32, 32, 3)."""
    tiles = sheet.reshape(-1, 32, PER_ROW, 32, 3)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4)).reshape(-1, 32, 32, 3)
