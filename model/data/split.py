"""How a data set is divided: training images into `train` and `val`, an epoch into batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..randomness import SPLIT, permutation
from ..types import SplitOptions

Indices = NDArray[np.integer]


def split_indices(labels: NDArray[np.integer], options: SplitOptions) -> tuple[Indices, Indices]:
    """Indices of the (train, val) images, each sorted; disjoint, and stratified by class.

    Which images a class gives depends on `split_seed` alone. Sizes are exact: where classes do not divide evenly, the
    largest remainders get one image more.

    Raises:
        ValueError: val_size leaves no training image.
    """
    total = len(labels)
    val_size = total // 10 if options.val_size is None else options.val_size
    if val_size >= total:
        raise ValueError(f"val_size must be below the {total} training images, got {val_size}")
    shuffled = permutation(options.split_seed, SPLIT, index=np.arange(total))
    val = _stratified(shuffled, labels, val_size)
    rest = shuffled[~np.isin(shuffled, val)]
    train = _stratified(rest, labels, max(1, round(len(rest) * options.train_fraction)))
    return np.sort(train), np.sort(val)


def batch_bounds(size: int, batch_size: int) -> list[int]:
    """Where batches begin and end; a last batch of one image joins the one before, for batch norm needs two."""
    bounds = [*range(0, size, batch_size), size]
    if len(bounds) > 2 and size - bounds[-2] == 1 and batch_size > 1:
        del bounds[-2]
    return bounds


def _stratified(candidates: Indices, labels: NDArray[np.integer], size: int) -> Indices:
    """The first candidates of every class, as many as the class's share of `size`."""
    classes, counts = np.unique(labels[candidates], return_counts=True)
    shares = size * counts / max(1, len(candidates))
    quotas = np.floor(shares).astype(int)
    for winner in np.argsort(quotas - shares, kind="stable")[: size - quotas.sum()]:
        quotas[winner] += 1
    parts = [candidates[labels[candidates] == c][:quota] for c, quota in zip(classes, quotas, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *parts])
