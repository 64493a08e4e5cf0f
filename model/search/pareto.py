"""The Pareto front of a search with several metrics: the runs that no other one beats in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from .plan import Plan
from .progress import format_metric
from .results import result_of_trial


def pareto_table(plan: Plan) -> str:
    """The front as a Markdown table, the best in the first metric first; empty where no run is finished."""
    metrics = plan.space.metric
    signs = [1 if metric.is_maximized else -1 for metric in metrics]
    finished = []
    for run in plan.runs:
        outcome = result_of_trial([run.folder], metrics)
        if outcome.state == "complete":
            finished.append((run.name, [sign * value for sign, value in zip(signs, outcome.values, strict=True)]))
    front = [(name, values) for name, values in finished if not any(dominates(other, values) for _, other in finished)]
    front.sort(key=lambda each: each[1], reverse=True)
    rows = [
        [
            name,
            *(
                format_metric(metric.name, sign * value)
                for metric, sign, value in zip(metrics, signs, values, strict=True)
            ),
        ]
        for name, values in front
    ]
    table: str = tabulate(rows, ["run", *(metric.name for metric in metrics)], tablefmt="pipe", disable_numparse=True)
    return table


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere worse and somewhere better; larger is better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)
