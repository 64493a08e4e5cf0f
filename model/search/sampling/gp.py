"""Gaussian process: the point with the largest expected improvement under a model of all trials.

Optuna's implementation with its defaults (a Matern kernel, log expected improvement).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import SAMPLERS
from .optuna_sampler import OptunaSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("gp")
class GaussianProcess(OptunaSampler):
    """Bayesian optimization with a Gaussian process."""

    packages = (*OptunaSampler.packages, "scipy")

    def build_optuna_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, warn_independent_sampling=False)
