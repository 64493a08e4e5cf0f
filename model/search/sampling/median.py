"""Median stopping rule: a run is stopped when it is worse than the median of the finished ones at the same epoch.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, sec. 3.2.2. There, means over the
epochs are compared; here, as in Optuna, the best values so far.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...registry import PRUNERS
from ..space.metric import Metric
from .pruner import LearningCurve, Pruner

MIN_FINISHED_RUNS = 5  # before there is a median


@PRUNERS.register("median")
class MedianPruner(Pruner):
    """Stops runs that are worse than the median.

    Args:
        min_iter: No run is stopped before this epoch.
    """

    def __init__(self, metric: Metric, seed: int, *, min_iter: int = 3) -> None:
        if min_iter < 1:
            raise ValueError(f"min_iter must be 1 or more, got {min_iter}")
        super().__init__(metric, seed)
        self.min_iter = min_iter

    def is_too_bad(self, curve: LearningCurve, epoch: int) -> bool:
        finished = [other.best for other in self.curves.values() if other.is_finished]
        reached = [best[epoch - 1] for best in finished if len(best) >= epoch]
        if epoch < self.min_iter or len(reached) < MIN_FINISHED_RUNS:
            return False
        return curve.best[epoch - 1] < lower_median(reached)


def lower_median(values: Sequence[float]) -> float:
    """The middle value; of an even number the lower one of the two, so that no infinite value enters a mean."""
    return sorted(values)[(len(values) - 1) // 2]
