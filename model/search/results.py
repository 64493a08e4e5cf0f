"""The result of a trial so far: the values of the search's metrics, read from the files of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..config.folder import Folder
from ..files import is_number
from .space.metric import COST_METRICS, Metric


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial so far.

    Args:
        state: pending as long as its run has not ended, or can be resumed.
        values: One per metric, if it is complete.
        curve: Epoch -> value of the first metric, where it is finite.
    """

    state: Literal["pending", "complete", "pruned", "failed"]
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)


def result_of_trial(folders: Sequence[Folder], metrics: Sequence[Metric]) -> TrialResult:
    """The result of a trial; its values are means over the seeds that are finished.

    Args:
        folders: One per seed; the first determines the state.
    """
    state, curve = folders[0].state(), curve_of(folders[0], metrics[0])
    if state == "finished" and missing_metric(folders[0], metrics) is None:
        seeds = [[value_in(folder, metric) for metric in metrics] for folder in folders if folder.state() == "finished"]
        by_metric = [[value for value in column if value is not None] for column in zip(*seeds, strict=True)]
        return TrialResult("complete", tuple(sum(values) / len(values) for values in by_metric), curve)
    if state == "pruned" and curve:
        return TrialResult("pruned", (), curve)
    if state in ("finished", "failed", "pruned"):
        return TrialResult("failed", (), curve)
    return TrialResult("pending", (), curve)


def missing_metric(folder: Folder, metrics: Sequence[Metric]) -> str | None:
    """Why a finished run has no result: a metric that it has no finite value of; None if it has all."""
    for metric in metrics:
        if value_in(folder, metric) is None:
            rows = folder.read_history()
            if any(metric.name in row for row in rows) or not rows:
                return f"no finite value of {metric.name}"
            return f"no metric {metric.name}; available: {', '.join(rows[-1])}, {', '.join(COST_METRICS)}"
    return None


def value_in(folder: Folder, metric: Metric) -> float | None:
    """The value of the best epoch, or the cost of the run; None before there is one."""
    if metric.is_cost:
        value = folder.read_run().get(metric.name)
        return value if is_number(value) else None
    return metric.best(curve_of(folder, metric).values())


def curve_of(folder: Folder, metric: Metric) -> dict[int, float]:
    """Epoch -> value, where it is finite."""
    rows = folder.read_history()
    return {
        row["epoch"]: row[metric.name]
        for row in rows
        if is_number(row.get("epoch")) and is_number(row.get(metric.name))
    }
