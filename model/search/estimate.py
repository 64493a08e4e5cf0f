"""An estimate of how long a search takes, before it begins."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..config.dotted import with_values
from ..config.params import PARAMS_FILE, Params, load_params, parse_params
from ..logs import format_duration
from .plan import ENDED, Plan
from .progress import fraction_done
from .space.points import covering_points

NUM_MEASURED = 4  # runs
MeasureSeconds = Callable[[Params, Path], float | None]  # of one run; None where they cannot be measured


def format_estimate(
    plan: Plan, max_jobs: int, measure: MeasureSeconds, *, startup: float = 0.0, num_final: int = 0
) -> str:
    """The estimated time with what it is based on, in one line.

    Args:
        max_jobs: The number of runs at a time.
        measure: Times a few steps of a run, of those that are left or of a folder that is trained first.
        startup: Seconds that the process of a run takes until it trains.
        num_final: The number of runs with final seeds.
    """
    num_runs = num_remaining_runs(plan) + num_final
    if num_runs == 0:
        return "time: none, nothing is left to do"
    durations = [run.folder.read_run().get("seconds") for run in plan.runs if run.folder.state() == "finished"]
    known = [seconds for seconds in durations if isinstance(seconds, int | float)]
    of_runs = known or _all_known(measure(params, path) for params, path in _typical_runs(plan))
    if of_runs is None:
        return "time: unknown, as the data set has not been downloaded yet"
    source = f"mean of {len(known)} finished" if known else f"measured on a few steps of {len(of_runs)}"
    seconds = statistics.mean(of_runs) + startup
    total = seconds * num_runs / max_jobs
    of_first = _all_known(measure(load_params(run.folder.path), run.folder.params) for run in plan.prerequisites)
    before = ""
    if of_first is None:
        source += "; without what is trained first"
    elif of_first:
        seconds_before = sum(of_first) + startup * len(of_first)
        total += seconds_before
        before = f"{format_duration(seconds_before)} for what is trained first, then "
    about = "at most" if plan.space.early_terminate else "about"
    runs = f"{num_runs:.3g} x {format_duration(seconds)}, {max_jobs} at a time"
    return f"time: {about} {format_duration(total)}, {before}{runs} ({source})"


def _all_known(durations: Iterable[float | None]) -> list[float] | None:
    """The durations; None where one of them is."""
    known: list[float] = []
    for seconds in durations:
        if seconds is None:
            return None
        known.append(seconds)
    return known


def _typical_runs(plan: Plan) -> Iterator[tuple[Params, Path]]:
    """A few of the runs, evenly spread over those that are left: they may take very different times."""
    points = [trial.point for trial in plan.trials if trial.run in plan.pending] or covering_points(plan.space)
    number, path = min(NUM_MEASURED, len(points)), plan.parent_dir / PARAMS_FILE
    for position in range(number):
        point = points[position * (len(points) - 1) // max(1, number - 1)]
        yield parse_params(with_values(plan.base, point.values), path), path


def num_remaining_runs(plan: Plan) -> float:
    """The number of runs that are left; one that has begun counts by the fraction that is left of it."""
    remaining = sum(1.0 if run.restart else 1 - fraction_done(run.folder) for run in plan.pending)
    num_ended = 0 if plan.restart else sum(run.folder.state() in ENDED for run in plan.runs)
    remaining += max(0, plan.num_trials - num_ended - len(plan.pending))
    return remaining + min(plan.space.top, plan.num_trials) * len(plan.seeds[1:])
