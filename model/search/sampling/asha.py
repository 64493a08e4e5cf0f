"""Asynchronous successive halving: at each rung only the best 1 / eta of the runs continue.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, with stopping instead of pausing: rungs
are at min_iter * eta^k epochs, and a run competes with all that have reached the same rung so far. A run that is the
best of all at an epoch is never stopped there.
"""

from __future__ import annotations

from ...registry import PRUNERS
from ..space.metric import Metric
from .pruner import LearningCurve, Pruner


@PRUNERS.register("asha")
class ASHA(Pruner):
    """Stops all but the best runs at each rung.

    Args:
        min_iter: Epochs of the first rung.
        eta: One of `eta` runs continues from a rung, and the next rung is `eta` times as many epochs.
    """

    def __init__(self, metric: Metric, seed: int, *, min_iter: int = 3, eta: int = 3) -> None:
        if min_iter < 1:
            raise ValueError(f"min_iter must be 1 or more, got {min_iter}")
        if eta < 2:
            raise ValueError(f"eta must be 2 or more, got {eta}")
        super().__init__(metric, seed)
        self.min_iter, self.eta = min_iter, eta

    def is_too_bad(self, curve: LearningCurve, epoch: int) -> bool:
        if not self._is_rung(epoch, curve.bracket):
            return False
        competing = [other.best for other in self.curves.values() if other.bracket == curve.bracket]
        reached = [best[epoch - 1] for best in competing if len(best) >= epoch]
        num_promoted = max(1, len(reached) // self.eta)
        return curve.best[epoch - 1] < sorted(reached)[-num_promoted]

    def _is_rung(self, epoch: int, bracket: int) -> bool:
        rung: int = self.min_iter * self.eta**bracket
        while rung < epoch:
            rung *= self.eta
        return rung == epoch
