"""How well the run of a folder does: the values of the search's metrics, as its files tell them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config.folder import Folder
from .space.schema import COSTS, Metric


@dataclass(frozen=True)
class TrialResult:
    """What is known of a point.

    Args:
        state: open as long as its run has not ended, or can go on.
        values: One a metric, where it is complete.
        curve: Epoch -> value of the first metric, the finite ones.
    """

    state: Literal["open", "complete", "pruned", "failed"]
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)


def result_of_trial(folders: Sequence[Folder], metrics: Sequence[Metric]) -> TrialResult:
    """What came out at a point; its value is the mean of the seeds that are finished.

    Args:
        folders: One a seed; the first decides about the state.
    """
    state, curve = folders[0].state(), curve_of(folders[0], metrics[0])
    if state == "finished" and missing_metric(folders[0], metrics) is None:
        seeds = [[value_in(folder, metric) for metric in metrics] for folder in folders if folder.state() == "finished"]
        known = [[value for value in each if value is not None] for each in zip(*seeds, strict=True)]
        return TrialResult("complete", tuple(sum(values) / len(values) for values in known), curve)
    if state == "pruned" and curve:
        return TrialResult("pruned", (), curve)
    if state in ("finished", "failed", "pruned"):
        return TrialResult("failed", (), curve)
    return TrialResult("open", (), curve)


def missing_metric(folder: Folder, metrics: Sequence[Metric]) -> str | None:
    """Why a finished run does not count: a metric of which it has no number."""
    for metric in metrics:
        if value_in(folder, metric) is None:
            rows = folder.read_history()
            if any(metric.name in row for row in rows) or not rows:
                return f"its {metric.name} is no number"
            return f"it has no {metric.name}, but {', '.join(rows[-1])}, {', '.join(COSTS)}"
    return None


def value_in(folder: Folder, metric: Metric) -> float | None:
    """The best epoch's value, or what the run costs; None before there is one."""
    if metric.name in COSTS:
        value = folder.read_run().get(metric.name)
        return value if _is_number(value) else None
    return metric.best(curve_of(folder, metric).values())


def curve_of(folder: Folder, metric: Metric) -> dict[int, float]:
    """Epoch -> value, the finite ones."""
    rows = folder.read_history()
    return {row["epoch"]: row[metric.name] for row in rows if "epoch" in row and _is_number(row.get(metric.name))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
