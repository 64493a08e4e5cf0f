"""The real CIFAR-10, on a machine where it has been fetched before."""

from pathlib import Path

import numpy as np
import pytest

from model.data.arrays import channel_statistics
from model.data.cifar import CIFAR10_DIGESTS, CIFAR10_NORMALISATION, cifar10
from model.data.cifar10_mini import unpack
from model.data.memory import Arrays
from model.data.store import sha256

DATA_DIR = Path(__file__).parents[2] / "data"

pytestmark = pytest.mark.skipif(not cifar10(DATA_DIR).is_ready(), reason="CIFAR-10 is not in data/")


@pytest.fixture(scope="module")
def full() -> Arrays:
    arrays: Arrays = cifar10(DATA_DIR).load()
    return arrays


def test_content_is_the_published_one(full: Arrays) -> None:
    assert {name: sha256(array) for name, array in vars(full).items()} == CIFAR10_DIGESTS


def test_normalisation_is_that_of_the_training_images(full: Arrays) -> None:
    mean, std = channel_statistics(full.train_images)
    assert np.allclose(mean, CIFAR10_NORMALISATION.mean, atol=1e-7)
    assert np.allclose(std, CIFAR10_NORMALISATION.std, atol=1e-7)


def test_mini_is_the_first_images_of_every_class(full: Arrays) -> None:
    mini = unpack()
    for split, per_class in (("train", 500), ("test", 100)):
        images, labels = getattr(full, f"{split}_images"), getattr(full, f"{split}_labels")
        counts = [0] * 10
        selected = []
        for index, label in enumerate(labels.tolist()):
            if counts[label] < per_class:
                selected.append(index)
                counts[label] += 1
        assert np.array_equal(getattr(mini, f"{split}_images"), images[selected])
        assert np.array_equal(getattr(mini, f"{split}_labels"), labels[selected])
