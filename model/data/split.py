"""Splits: training images into `train` and `val`, an epoch into batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ..randomness import SPLIT, TEST, permutation
from ..types import SplitOptions

Indices = NDArray[np.integer]


def split_indices(
    labels: NDArray[np.integer],
    options: SplitOptions,
    keys: NDArray[np.uint64] | None = None,
    *,
    groups: NDArray[np.uint64] | None = None,
    is_val: NDArray[np.bool_] | None = None,
) -> tuple[Indices, Indices]:
    """Indices of the (train, val) images, each sorted; disjoint, and stratified by class.

    The order in which a class's images are taken depends on `split_seed` and their keys alone. Sizes are exact: where
    classes do not divide evenly, those with the largest remainders get one image more.

    Args:
        keys: A key of each image, by default its index. With keys that follow an image, such as a hash of its file's
            name, adding or removing some images moves about as many others between train and val.
        groups: A number for each image: those of equal numbers are all in train or all in val, of which the size is
            approximate then. Images that are alone in their group are drawn as by their number as key.
        is_val: Which images are val, where they are not drawn.

    Raises:
        ValueError: `val_size` leaves no training image, is given beside `is_val`, or cannot be had in whole groups.
    """
    total = len(labels)
    drawn_by = keys if groups is None else groups
    shuffled = permutation(options.split_seed, SPLIT, index=np.arange(total), keys=drawn_by)
    val_size = total // 10 if options.val_size is None else options.val_size
    if is_val is not None and options.val_size is not None:
        raise ValueError(f"val_size must be left out where val images are given, got {options.val_size}")
    if val_size >= total:
        raise ValueError(f"val_size must be below the {total} training images, got {val_size}")
    val: Indices
    if is_val is not None:
        val = np.flatnonzero(is_val)
    elif groups is None:
        val = _stratified(shuffled, labels, val_size)
    else:
        val = _take_groups(shuffled, labels, groups, _quotas(np.bincount(labels), val_size))
        if val_size and not len(val):
            hint = "val_size 0 trains on all of them"
            raise ValueError(f"no images can be held out for val: every class is one group that stays together; {hint}")
    rest = shuffled[~np.isin(shuffled, val)]
    train = _stratified(rest, labels, max(1, round(len(rest) * options.train_fraction)))
    return np.sort(train), np.sort(val)


def draw_test(labels: NDArray[np.integer], fraction: float, groups: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which images are test images: this fraction of each class, rounded, and one image at least.

    It depends on the groups' numbers alone: a class's images are drawn without regard to those of others, so that
    adding some moves about as many of this class.

    Args:
        groups: A number for each image, a hash of its name: those of equal numbers are drawn together.
    """
    counts = np.bincount(labels)
    quotas = np.minimum(np.maximum(1, np.floor(counts * fraction + 0.5).astype(int)), np.maximum(counts - 1, 0))
    shuffled = permutation(TEST, index=np.arange(len(labels)), keys=groups)
    is_test = np.zeros(len(labels), bool)
    is_test[_take_groups(shuffled, labels, groups, quotas)] = True
    return is_test


def batch_bounds(size: int, batch_size: int) -> list[int]:
    """The bounds of the batches; a last batch of one image is merged with the one before, as batch norm needs two."""
    bounds = [*range(0, size, batch_size), size]
    if len(bounds) > 2 and size - bounds[-2] == 1 and batch_size > 1:
        del bounds[-2]
    return bounds


def _stratified(candidates: Indices, labels: NDArray[np.integer], size: int) -> Indices:
    """The first candidates of every class, in proportion to its candidates; `size` in total."""
    classes, counts = np.unique(labels[candidates], return_counts=True)
    quotas = _quotas(counts, size)
    parts = [candidates[labels[candidates] == c][:quota] for c, quota in zip(classes, quotas, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _quotas(counts: NDArray[np.integer], size: int) -> NDArray[np.integer]:
    """How many each class gives, in proportion to its number; `size` in total."""
    proportions = size * counts / max(1, counts.sum())
    quotas: NDArray[np.integer] = np.floor(proportions).astype(int)
    for largest_remainder in np.argsort(quotas - proportions, kind="stable")[: size - quotas.sum()]:
        quotas[largest_remainder] += 1
    return quotas


def _take_groups(
    shuffled: Indices, labels: NDArray[np.integer], groups: NDArray[np.uint64], quotas: NDArray[np.integer]
) -> Indices:
    """Whole groups in their shuffled order, each where it brings the classes nearer to their quotas.

    Of a class whose groups are all larger than that, the first group is taken that leaves it another.
    """
    members: dict[int, list[int]] = {}  # in the order of `shuffled`
    for index, group in zip(shuffled.tolist(), groups[shuffled].tolist(), strict=True):
        members.setdefault(group, []).append(index)
    class_of, missing, taken = labels.tolist(), quotas.tolist(), list[int]()
    left_groups = Counter(label for indices in members.values() for label in {class_of[i] for i in indices})
    too_large: dict[int, list[int]] = {}  # class -> the first such group

    def take(indices: list[int], counts: Counter[int]) -> None:
        taken.extend(indices)
        left_groups.subtract(counts.keys())
        for label, count in counts.items():
            missing[label] -= count

    for indices in members.values():
        counts = Counter(class_of[index] for index in indices)
        if sum(abs(missing[label] - count) - abs(missing[label]) for label, count in counts.items()) < 0:
            take(indices, counts)
        else:
            for label in counts:
                too_large.setdefault(label, indices)
    for label, indices in too_large.items():
        if 0 < missing[label] == quotas[label] and left_groups[label] > 1:
            take(indices, Counter(class_of[index] for index in indices))
    return np.array(taken, np.int64)
