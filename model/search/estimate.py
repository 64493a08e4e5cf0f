"""An estimate of how long a search takes, before it begins."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from ..config.dotted import with_values
from ..config.params import PARAMS_FILE, Params, parse_params
from ..logs import format_duration
from .plan import ENDED, Plan
from .progress import fraction_done
from .space.points import covering_points

MeasureSeconds = Callable[[Params, Path], float | None]  # of one run; None where they cannot be measured


def format_estimate(plan: Plan, max_jobs: int, measure: MeasureSeconds, *, num_final: int = 0) -> str:
    """The estimated time with what it is based on, in one line.

    Args:
        max_jobs: The number of runs at a time.
        measure: Times a few steps of a run; called only if no run is finished yet.
        num_final: The number of runs with final seeds.
    """
    num_runs = num_remaining_runs(plan) + num_final
    if num_runs == 0:
        return "time: none, nothing is left to do"
    durations = [run.folder.read_run().get("seconds") for run in plan.runs if run.folder.state() == "finished"]
    known = [seconds for seconds in durations if isinstance(seconds, int | float)]
    if known:
        seconds, source = statistics.mean(known), f"mean of {len(known)} finished"
    else:
        measured = _measure_first(plan, measure)
        if measured is None:
            return "time: unknown, as the data set has not been downloaded yet"
        seconds, source = measured, "measured on a few steps of the first"
    about = "at most" if plan.space.early_terminate else "about"
    first = "; without what is trained first" if plan.prerequisites else ""
    total = format_duration(seconds * num_runs / max_jobs)
    runs = f"{num_runs:.3g} x {format_duration(seconds)}, {max_jobs} at a time"
    return f"time: {about} {total}, {runs} ({source}{first})"


def _measure_first(plan: Plan, measure: MeasureSeconds) -> float | None:
    pending = (trial.point for trial in plan.trials if trial.run in plan.pending)
    point = next(pending, None) or covering_points(plan.space)[0]
    path = plan.parent_dir / PARAMS_FILE
    return measure(parse_params(with_values(plan.base, point.values), path), path)


def num_remaining_runs(plan: Plan) -> float:
    """The number of runs that are left; one that has begun counts by the fraction that is left of it."""
    remaining = sum(1.0 if run.restart else 1 - fraction_done(run.folder) for run in plan.pending)
    num_ended = 0 if plan.restart else sum(run.folder.state() in ENDED for run in plan.runs)
    remaining += max(0, plan.num_trials - num_ended - len(plan.pending))
    return remaining + min(plan.space.top, plan.num_trials) * len(plan.seeds[1:])
