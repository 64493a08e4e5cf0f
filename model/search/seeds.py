"""Runs of the best trials with more seeds. Trials are ranked on val, by the seeds of the search alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .plan import Plan, Trial, TrialRun, check_same_params
from .results import result_of_trial


@dataclass(frozen=True)
class FinalSeeds:
    """Train the best `top` trials with `num_seeds` seeds that were not used in the search."""

    top: int
    num_seeds: int

    def __post_init__(self) -> None:
        if self.top < 1 or self.num_seeds < 1:
            raise UserError(f"--top and --final_seeds must be 1 or more, got {self.top} and {self.num_seeds}")

    @property
    def num_runs(self) -> int:
        return self.top * self.num_seeds


def replicate_runs(plan: Plan) -> list[TrialRun]:
    """The runs of the other seeds of search.json, for the best `top` trials of the first one."""
    if len(plan.seeds) == 1:
        return []
    return _make_runs(plan, best_trials(plan, plan.seeds[:1])[: plan.space.top], plan.seeds[1:])


def final_runs(plan: Plan, final: FinalSeeds) -> list[TrialRun]:
    """The runs of the best trials with seeds that were not used in the search, trial by trial."""
    unused = (seed for seed in itertools.count() if seed not in plan.seeds)
    return _make_runs(plan, best_trials(plan, plan.seeds)[: final.top], list(itertools.islice(unused, final.num_seeds)))


def check_final_seeds(plan: Plan) -> None:
    """Refuse searches that do not rank their trials, or that search over seeds.

    Raises:
        UserError: As it says.
    """
    if len(plan.space.metric) > 1:
        names = ", ".join(metric.name for metric in plan.space.metric)
        raise UserError(f"--top needs a single metric to rank by, and the search has several: {names}")
    if any("seed" in trial.point.values for trial in plan.trials):
        raise UserError('--top: the search sets "seed" as a parameter; write "seeds" in search.json instead')


def best_trials(plan: Plan, seeds: Sequence[int]) -> list[Trial]:
    """The complete trials: first those with the most finished seeds, then by the mean of their values."""
    ranked = []
    for trial in plan.trials:
        folders = [plan.make_run(trial.point, seed).folder for seed in seeds]
        result = result_of_trial(folders, plan.space.metric)
        if result.state == "complete":
            num_seeds = sum(folder.state() == "finished" for folder in folders)
            value = -result.values[0] if plan.metric.is_maximized else result.values[0]
            ranked.append((-num_seeds, value, trial.number, trial))
    return [trial for *_, trial in sorted(ranked, key=lambda item: item[:3])]


def _make_runs(plan: Plan, trials: Sequence[Trial], seeds: Sequence[int]) -> list[TrialRun]:
    runs = [plan.make_run(trial.point, seed) for trial in trials for seed in seeds]
    for run in runs:
        if not plan.restart:
            check_same_params(run)
    return runs
