"""Which images an epoch shows, and how often: each once, or as many of every class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..randomness import BALANCE, permutation
from .split import Indices

CLASSES, IMAGES = range(2)  # the random choices of an epoch


class Sample(NamedTuple):
    """What an epoch shows, in no particular order."""

    index: Indices  # type: ignore[assignment]  # (M,)
    repeat: Indices  # (M,), how often the image has come before in this epoch


class BalancedSampler:
    """Shows every class equally often, in epochs of as many images as there are.

    Images of rare classes are repeated, and of frequent ones an epoch shows a part. Which images, and which classes
    come once more where the number of images cannot be divided, is a function of (seed, epoch).

    Args:
        index: The training images.
        labels: Their classes; classes without images have no part.
    """

    def __init__(self, index: Indices, labels: NDArray[np.integer], seed: int) -> None:
        self.seed, self.num_images = seed, len(index)
        self.members = {int(label): index[labels == label] for label in np.unique(labels)}
        most = -(-self.num_images // len(self.members))
        self.most_repeats = max(-(-most // len(members)) for members in self.members.values())

    def sample(self, epoch: int) -> Sample:
        each, num_more = divmod(self.num_images, len(self.members))
        more = permutation(self.seed, BALANCE, epoch, CLASSES, index=np.array([*self.members]))[:num_more].tolist()
        index, repeat = [], []
        for label, members in self.members.items():
            place = np.arange(each + (label in more))
            index.append(permutation(self.seed, BALANCE, epoch, IMAGES, index=members)[place % len(members)])
            repeat.append(place // len(members))
        return Sample(np.concatenate(index), np.concatenate(repeat))
