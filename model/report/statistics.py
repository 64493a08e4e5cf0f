"""Is one set of runs better than another? Differences of means from a value per seed, with intervals and verdicts.

Where both sets have runs of the same seeds, the seeds are pairs: initial weights and the order of images are functions
of the seed, so much of what varies is the same on both sides. Otherwise it is Welch's test, which does not assume equal
variances. Several comparisons at once are corrected by Holm's method ("A Simple Sequentially Rejective Multiple Test
Procedure", 1979): each verdict has its own level, and its interval has the same one, so that the two always agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.05  # of all verdicts of one table together
POWER = 0.8  # with which `seeds_needed` would show a difference
MAX_SEEDS = 1000  # `seeds_needed` is not searched beyond

Values = Mapping[int, float]  # seed -> result
Verdict = Literal["better", "worse", "not shown", "one seed"]


@dataclass(frozen=True)
class Difference:
    """The difference of the means of two sets of runs, of which each has a value per seed.

    Args:
        mean: Of the values, minus that of the baseline.
        deviation: Standard deviation of the differences of pairs; without pairs that of a difference of two runs.
        is_paired: Whether `num_seeds` is a number of pairs, or of values in each set.
        num_seeds: Of the values, and of the baseline.
    """

    mean: float
    deviation: float
    is_paired: bool
    num_seeds: tuple[int, int]
    standard_error: float
    degrees_of_freedom: float

    @property
    def p_value(self) -> float:
        """Two-sided: how likely a difference at least as large is without a true one."""
        from scipy import stats  # takes longer to import than most tables to make

        if self.standard_error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.degrees_of_freedom))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval that has the true difference with a probability of 1 - level."""
        from scipy import stats

        if self.standard_error == 0:
            return self.mean, self.mean
        half = float(stats.t.isf(level / 2, self.degrees_of_freedom)) * self.standard_error
        return self.mean - half, self.mean + half

    def seeds_needed(self) -> int | None:
        """The smallest number of seeds, of each set, with which a true difference of this size would mostly be shown.

        "Mostly" is a power of 80 % at 5 %, from the noncentral t distribution. None beyond 1,000 seeds.
        """
        import numpy as np
        from scipy import stats

        if self.mean == 0:
            return None
        if self.deviation == 0:
            return 2
        effect = abs(self.mean) / self.deviation
        for count in range(2, MAX_SEEDS + 1):
            freedom = count - 1 if self.is_paired else 2 * (count - 1)
            critical = stats.t.isf(LEVEL / 2, freedom)
            with np.errstate(divide="ignore"):  # a needless warning of scipy 1.12
                power = stats.nct.sf(critical, freedom, effect * math.sqrt(count))
            if power >= POWER:
                return count
        return None


def difference(values: Values, baseline: Values, resolution: float = 0.0) -> Difference | None:
    """The difference of two sets of runs; None where one of them has too few seeds for an interval.

    Args:
        resolution: Of the values: 1 / N for accuracies on N images. A spread is at least that of the rounding to such
            steps (a variance of resolution^2 / 12): a few equal differences are no proof that all are equal.
    """
    rounding = resolution**2 / 12
    common = sorted(values.keys() & baseline.keys())
    if len(common) >= 2:
        differences = [values[seed] - baseline[seed] for seed in common]
        count, deviation = len(common), math.sqrt(max(statistics.variance(differences), 2 * rounding))
        return Difference(
            statistics.mean(differences), deviation, True, (count, count), deviation / math.sqrt(count), count - 1
        )
    if min(len(values), len(baseline)) < 2:
        return None
    variances = [max(statistics.variance(each.values()), rounding) for each in (values, baseline)]
    of_means = [variance / len(each) for variance, each in zip(variances, (values, baseline), strict=True)]
    return Difference(
        mean=statistics.mean(values.values()) - statistics.mean(baseline.values()),
        deviation=math.sqrt(sum(variances)),
        is_paired=False,
        num_seeds=(len(values), len(baseline)),
        standard_error=math.sqrt(sum(of_means)),
        degrees_of_freedom=_welch_degrees_of_freedom(of_means, [len(values), len(baseline)]),
    )


def _welch_degrees_of_freedom(variances_of_means: Sequence[float], counts: Sequence[int]) -> float:
    """Welch and Satterthwaite's approximation."""
    if not any(variances_of_means):
        return float(sum(counts) - 2)
    parts = [variance**2 / (count - 1) for variance, count in zip(variances_of_means, counts, strict=True)]
    return sum(variances_of_means) ** 2 / sum(parts)


@dataclass(frozen=True)
class Comparison:
    """A difference with its verdict among those of one table."""

    difference: Difference | None
    verdict: Verdict
    interval: tuple[float, float] | None


def compare(differences: Sequence[Difference | None]) -> list[Comparison]:
    """Verdicts on several differences, of which all are right with a probability of 95 % or more (Holm)."""
    known = [each for each in differences if each is not None]
    levels = dict(zip(map(id, known), holm_levels([each.p_value for each in known]), strict=True))
    return [
        Comparison(None, "one seed", None) if each is None else _judged(each, levels[id(each)]) for each in differences
    ]


def _judged(difference: Difference, level: float) -> Comparison:
    low, high = difference.interval(level)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "not shown"
    return Comparison(difference, verdict, (low, high))


def holm_levels(p_values: Sequence[float], level: float = LEVEL) -> list[float]:
    """The level of each of several tests: the k-th smallest p-value, if smaller ones passed, is compared with
    level / (number - k + 1), and all after the first that fails with that one's.
    """
    levels, order = [0.0] * len(p_values), sorted(range(len(p_values)), key=p_values.__getitem__)
    own, has_failed = level, False
    for rank, index in enumerate(order):
        if not has_failed:
            own = level / (len(p_values) - rank)
            has_failed = p_values[index] >= own
        levels[index] = own
    return levels
