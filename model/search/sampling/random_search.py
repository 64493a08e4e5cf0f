"""Random search: every point is drawn independently of the others.

Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012.
https://jmlr.org/papers/v13/bergstra12a.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import SAMPLERS
from .optuna_sampler import OptunaSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("random")
class RandomSearch(OptunaSampler):
    """Draws from the distributions of the parameters."""

    def build_optuna_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
