"""How far accuracies on one set of images can be trusted."""

from __future__ import annotations

from typing import NamedTuple


def accuracy_interval(num_correct: int, num_samples: int, level: float = 0.05) -> tuple[float, float]:
    """The bootstrap's percentile interval of an accuracy.

    Resampling n answers of which k are right gives a binomial number of right ones: its quantiles need no resampling.
    """
    from scipy import stats

    low, high = stats.binom.ppf([level / 2, 1 - level / 2], num_samples, num_correct / num_samples)
    return float(low) / num_samples, float(high) / num_samples


class McNemar(NamedTuple):
    """Two networks on the same images: only those that one of them gets right tell them apart."""

    only_first: int  # images that the first network alone gets right
    only_second: int
    p_value: float  # two-sided and exact: how likely so uneven numbers are where neither network is better


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """McNemar's test (1947) in its exact form, a sign test."""
    from scipy import stats

    total = only_first + only_second
    p_value = 1.0 if total == 0 else float(stats.binomtest(only_first, total).pvalue)
    return McNemar(only_first, only_second, p_value)
