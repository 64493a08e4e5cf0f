"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 in one channel, 10 classes each.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017. https://arxiv.org/abs/1708.07747
Digits are never flipped, clothes are.
"""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..registry import DATASETS
from ..types import Normalisation
from .memory import Arrays, Augmentation, MemorySource
from .store import Download, Store, from_torchvision, shapes

MNIST_DIGESTS = {
    "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
FASHION_CLASSES = (
    "t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
FASHION_DIGESTS = {
    "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist


@DATASETS.register
def mnist(data_dir: Path) -> MemorySource:
    """MNIST: handwritten digits."""
    store = Store(
        folder=data_dir / "mnist",
        shapes=shapes(60_000, 10_000, (28, 28, 1)),
        downloads=(Download("its mirrors", partial(from_torchvision, "MNIST", ("MNIST",), data_dir)),),
        manual_download=f"download the four files *-ubyte.gz and put them into {data_dir / 'MNIST' / 'raw'}",
        digests=MNIST_DIGESTS,
    )
    return MemorySource(
        class_names=tuple("0123456789"),
        image_shape=(1, 28, 28),
        normalisation=Normalisation(mean=(0.13066048,), std=(0.30810780,)),
        augmentation=Augmentation(pad=2, flip=False),
        load=store.load,
        ready=store.is_ready,
    )


@DATASETS.register
def fashion_mnist(data_dir: Path) -> MemorySource:
    """Fashion-MNIST: clothes, shoes and bags."""
    store = Store(
        folder=data_dir / "fashion_mnist",
        shapes=shapes(60_000, 10_000, (28, 28, 1)),
        downloads=(
            Download("its mirror", partial(from_torchvision, "FashionMNIST", ("FashionMNIST",), data_dir)),
            Download("Debian's package dataset-fashion-mnist", from_debian),
        ),
        manual_download=f"download the four files *-ubyte.gz and put them into {data_dir / 'FashionMNIST' / 'raw'}",
        digests=FASHION_DIGESTS,
    )
    return MemorySource(
        class_names=FASHION_CLASSES,
        image_shape=(1, 28, 28),
        normalisation=Normalisation(mean=(0.28604060,), std=(0.35302424,)),
        augmentation=Augmentation(pad=2, flip=True),
        load=store.load,
        ready=store.is_ready,
    )


def from_debian(_temporary: Path) -> Arrays:
    """Fashion-MNIST from the files that Debian's package installs."""
    return Arrays(
        train_images=_read_idx(DEBIAN_FOLDER / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1),
        train_labels=_read_idx(DEBIAN_FOLDER / "train-labels-idx1-ubyte.gz", 8),
        test_images=_read_idx(DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1),
        test_labels=_read_idx(DEBIAN_FOLDER / "t10k-labels-idx1-ubyte.gz", 8),
    )


def _read_idx(path: Path, header_bytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)
