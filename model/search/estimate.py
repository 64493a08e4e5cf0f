"""About how long a search takes, before it is begun."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from ..config.dotted import with_values
from ..config.params import PARAMS_FILE, Params, parse_params
from ..logs import format_duration
from .plan import ENDED, Plan
from .progress import fraction_done
from .space.points import samples

Measure = Callable[[Params, Path], float | None]  # seconds of a run; None where they cannot be told


def told_time(plan: Plan, at_once: int, measure: Measure, *, num_final: int = 0) -> str:
    """One line: the time, and where it is from.

    Args:
        at_once: How many runs go at the same time.
        measure: Times a few steps of a run; asked only where no run is finished yet.
        num_final: How many runs follow on other seeds.
    """
    took = [run.folder.read_run().get("seconds") for run in plan.runs if run.folder.state() == "finished"]
    known = [seconds for seconds in took if isinstance(seconds, int | float)]
    num_runs = num_to_come(plan) + num_final
    if num_runs == 0:
        return "time: none, nothing is left to do"
    if known:
        seconds, source = statistics.mean(known), f"mean of {len(known)} finished"
    else:
        point = next((cell.point for cell in plan.cells if cell.run in plan.to_do), None) or samples(plan.space)[0]
        path = plan.parent_dir / PARAMS_FILE
        measured = measure(parse_params(with_values(plan.base, point.values), path), path)
        if measured is None:
            return "time: not known, as the data set is not here yet"
        seconds, source = measured, "the first, by a few of its steps"
    about = "at most" if plan.space.early_terminate else "about"
    first = "; beside what is trained first" if plan.needed else ""
    total = format_duration(seconds * num_runs / at_once)
    return f"time: {about} {total}, {num_runs:.3g} to do of {format_duration(seconds)} each ({source}{first})"


def num_to_come(plan: Plan) -> float:
    """How many runs are left; one that has begun counts by what is left of it."""
    left = sum(1.0 if run.restart else 1 - fraction_done(run.folder) for run in plan.to_do)
    num_ended = 0 if plan.restart else sum(run.folder.state() in ENDED for run in plan.runs)
    left += max(0, plan.cap - num_ended - len(plan.to_do))
    others = plan.seeds[1:]
    return left + min(plan.space.top, plan.cap) * len(others)
