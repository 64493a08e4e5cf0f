"""Hyperband: successive halving in several brackets, so that runs that start slowly have a chance.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18, 2018, alg. 1. The first
rung of each bracket is eta times as many epochs as that of the one before. A run competes within one bracket, drawn so
that the brackets share the runs as in the paper.
"""

from __future__ import annotations

import itertools
import math

from ...registry import PRUNERS
from ..space.points import seed_of
from .asha import ASHA


@PRUNERS.register("hyperband")
class Hyperband(ASHA):
    """Stops all but the best runs of a bracket at each of its rungs."""

    def bracket_of(self, name: str, num_epochs: int) -> int:
        if num_epochs < self.min_iter:
            return 0
        sizes = bracket_sizes(num_epochs / self.min_iter, self.eta)
        drawn = seed_of(self.seed, name) / 2**32 * sum(sizes)
        return next(bracket for bracket, end in enumerate(itertools.accumulate(sizes)) if drawn < end)


def bracket_sizes(max_resource: float, eta: int) -> list[int]:
    """The number of runs that start in each bracket, lowest first rung first: the paper's n for s = s_max, ..., 0.

    Args:
        max_resource: The length of a run in units of the first rung: the paper's R.
    """
    s_max = int(math.log(max_resource, eta) + 1e-9)
    return [math.ceil((s_max + 1) * eta**s / (s + 1)) for s in range(s_max, -1, -1)]
