"""Tree-structured Parzen estimator: points that are likely under the good trials and unlikely under the others.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; for several metrics Ozaki et al.,
"Multiobjective Tree-Structured Parzen Estimator", JAIR 73, 2022. Optuna's implementation with its defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import SAMPLERS
from .optuna_sampler import OptunaSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("tpe")
class TPE(OptunaSampler):
    """Models the values of the good and of the bad trials, parameter by parameter."""

    def build_optuna_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed)
