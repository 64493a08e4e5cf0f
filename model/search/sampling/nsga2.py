"""NSGA-II: children of the best trials of the last generation, by non-dominated rank and crowding distance.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Trans. Evol. Comput. 6(2), 2002.
Optuna's implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...registry import SAMPLERS
from .optuna_sampler import OptunaSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POPULATION_SIZE = 10  # Optuna's 50 is more than the number of runs of most searches that train networks


@SAMPLERS.register("nsga2")
class NSGA2(OptunaSampler):
    """A genetic algorithm for several metrics."""

    keeps_generations = True

    def build_optuna_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=POPULATION_SIZE)
