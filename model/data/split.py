"""Splits: training images into `train` and `val`, an epoch into batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..randomness import SPLIT, permutation
from ..types import SplitOptions

Indices = NDArray[np.integer]


def split_indices(
    labels: NDArray[np.integer], options: SplitOptions, keys: NDArray[np.uint64] | None = None
) -> tuple[Indices, Indices]:
    """Indices of the (train, val) images, each sorted; disjoint, and stratified by class.

    The order in which a class's images are taken depends on `split_seed` and their keys alone. Sizes are exact: where
    classes do not divide evenly, those with the largest remainders get one image more.

    Args:
        keys: A key of each image, by default its index. With keys that follow an image, such as a hash of its file's
            name, adding or removing some images moves about as many others between train and val.

    Raises:
        ValueError: `val_size` leaves no training image.
    """
    total = len(labels)
    val_size = total // 10 if options.val_size is None else options.val_size
    if val_size >= total:
        raise ValueError(f"val_size must be below the {total} training images, got {val_size}")
    shuffled = permutation(options.split_seed, SPLIT, index=np.arange(total), keys=keys)
    val = _stratified(shuffled, labels, val_size)
    rest = shuffled[~np.isin(shuffled, val)]
    train = _stratified(rest, labels, max(1, round(len(rest) * options.train_fraction)))
    return np.sort(train), np.sort(val)


def batch_bounds(size: int, batch_size: int) -> list[int]:
    """The bounds of the batches; a last batch of one image is merged with the one before, as batch norm needs two."""
    bounds = [*range(0, size, batch_size), size]
    if len(bounds) > 2 and size - bounds[-2] == 1 and batch_size > 1:
        del bounds[-2]
    return bounds


def _stratified(candidates: Indices, labels: NDArray[np.integer], size: int) -> Indices:
    """The first candidates of every class, in proportion to its candidates; `size` in total."""
    classes, counts = np.unique(labels[candidates], return_counts=True)
    proportions = size * counts / max(1, len(candidates))
    quotas = np.floor(proportions).astype(int)
    for largest_remainder in np.argsort(quotas - proportions, kind="stable")[: size - quotas.sum()]:
        quotas[largest_remainder] += 1
    parts = [candidates[labels[candidates] == c][:quota] for c, quota in zip(classes, quotas, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *parts])
