"""CMA-ES: points from a normal distribution whose mean and covariance follow the best trials.

Hansen, "The CMA Evolution Strategy: A Tutorial", 2016. https://arxiv.org/abs/1604.00772
Optuna's implementation, by the package cmaes, with its defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import SAMPLERS
from .optuna_sampler import OptunaSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("cmaes")
class CMAES(OptunaSampler):
    """Covariance matrix adaptation; parameters that are no numbers are drawn at random."""

    takes_several_metrics = False
    packages = (*OptunaSampler.packages, "cmaes")
    keeps_generations = True

    def build_optuna_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
