"""The Pareto front of a search with several metrics: the runs that no other run dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..markdown import markdown_table
from .plan import Plan
from .progress import format_metric
from .results import result_of_trial


class FinishedRun(NamedTuple):
    """Its name, and its values with the sign that makes larger ones better."""

    name: str
    values: tuple[float, ...]


def pareto_table(plan: Plan) -> str:
    """The Pareto front as a Markdown table, the best in the first metric first; empty where no run is finished."""
    metrics = plan.space.metric
    signs = [1 if metric.is_maximized else -1 for metric in metrics]
    finished = []
    for run in plan.runs:
        result = result_of_trial([run.folder], metrics)
        if result.state == "complete":
            values = tuple(sign * value for sign, value in zip(signs, result.values, strict=True))
            finished.append(FinishedRun(run.name, values))
    front = [one for one in finished if not any(dominates(other.values, one.values) for other in finished)]
    rows = []
    for name, values in sorted(front, key=lambda run: run.values, reverse=True):
        columns = zip(metrics, signs, values, strict=True)
        rows.append([name, *(format_metric(metric.name, sign * value) for metric, sign, value in columns)])
    return markdown_table(["run", *(metric.name for metric in metrics)], rows)


def dominates(values: Sequence[float], others: Sequence[float]) -> bool:
    """Whether values are at least as good as others in all metrics and better in one; larger is better."""
    return all(a >= b for a, b in zip(values, others, strict=True)) and list(values) != list(others)
