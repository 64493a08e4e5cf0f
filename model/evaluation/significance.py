"""How far accuracies on one set of images can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


def accuracy_interval(num_correct: int, num_samples: int, level: float = 0.05) -> tuple[float, float]:
    """The bootstrap's percentile interval of an accuracy.

    Resampling n answers of which k are right gives a binomial number of right ones: its quantiles need no resampling.
    """
    share = num_correct / num_samples
    if share in (0, 1):
        return share, share
    low, high = (_quantile(q, num_samples, share) for q in (level / 2, 1 - level / 2))
    return low / num_samples, high / num_samples


def _quantile(q: float, count: int, p: float) -> int:
    """The smallest k for which a binomial number is k or less with a probability of at least q."""
    from scipy import special  # scipy.stats takes longer to import than many tables to make

    number: int = math.ceil(special.bdtrik(q, count, p))
    return number - 1 if number and special.bdtr(number - 1, count, p) >= q else number


class McNemar(NamedTuple):
    """Two networks on the same images: only those that one of them gets right tell them apart."""

    only_first: int  # images that the first network alone gets right
    only_second: int
    p_value: float  # two-sided and exact: how likely so uneven numbers are where neither network is better


def compare_on_same_images(first_N: Tensor, second_N: Tensor) -> McNemar:
    """Compare two networks by which images each gets right (booleans)."""
    return mcnemar(int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum()))


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test (1947) in its exact form, a sign test."""
    from scipy import stats

    total = only_first + only_second
    p_value = 1.0 if total == 0 else float(stats.binomtest(only_first, total).pvalue)
    return McNemar(only_first, only_second, p_value)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, corrected: with a probability of 5 % any is below 5 % by chance (Holm, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
