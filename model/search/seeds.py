"""Runs of the best cells with more seeds. Which are the best is decided on val, by the first seeds alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import UserError
from .plan import Plan, Trial, TrialRun, refuse_other_params
from .results import result_of_trial


def replicates(plan: Plan) -> list[TrialRun]:
    """The runs of the other seeds of search.json, for the best `top` cells of the first one."""
    if len(plan.seeds) == 1:
        return []
    return _runs(plan, best_cells(plan, plan.seeds[:1])[: plan.space.top], plan.seeds[1:])


def final_runs(plan: Plan, *, top: int, num_seeds: int) -> list[TrialRun]:
    """The runs of the best `top` cells with seeds that had no part in the search; those of one cell stand together."""
    fresh = itertools.islice((seed for seed in itertools.count() if seed not in plan.seeds), num_seeds)
    return _runs(plan, best_cells(plan, plan.seeds)[:top], list(fresh))


def refuse_final_runs(plan: Plan) -> None:
    """Refuse searches in which no cells are the best, or that search over seeds.

    Raises:
        UserError: As it says.
    """
    if len(plan.space.metric) > 1:
        names = ", ".join(metric.name for metric in plan.space.metric)
        raise UserError(f"--top needs one metric that says which are the best, and the search has several: {names}")
    if any("seed" in point.values for point in (cell.point for cell in plan.cells)):
        raise UserError('--top: the search sets "seed" as a parameter; write "seeds" in search.json instead')


def best_cells(plan: Plan, seeds: Sequence[int]) -> list[Trial]:
    """The finished cells: first those that have the most of the seeds, then by the mean of their values."""
    ranked = []
    for cell in plan.cells:
        folders = [plan.make_run(cell.point, seed).folder for seed in seeds]
        outcome = result_of_trial(folders, plan.space.metric)
        if outcome.state == "complete":
            num_seeds = sum(folder.state() == "finished" for folder in folders)
            value = -outcome.values[0] if plan.metric.is_maximized else outcome.values[0]
            ranked.append((-num_seeds, value, cell.number, cell))
    return [cell for *_, cell in sorted(ranked, key=lambda each: each[:3])]


def _runs(plan: Plan, cells: Sequence[Trial], seeds: Sequence[int]) -> list[TrialRun]:
    runs = [plan.make_run(cell.point, seed) for cell in cells for seed in seeds]
    for run in runs:
        if not plan.restart:
            refuse_other_params(run)
    return runs
