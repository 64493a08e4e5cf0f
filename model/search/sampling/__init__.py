"""Samplers, which propose the next trial, and pruners, which stop bad trials early; one file each.

Importing this package registers them: a new one is a file and a name here. None of these files imports Optuna before it
is used, so that a grid search and a report need not wait for it.
"""

from . import (
    asha,
    cmaes,
    gp,
    grid,
    hyperband,
    median,
    nsga2,
    random_search,
    tpe,
)
