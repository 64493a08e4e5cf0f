"""Accuracy against cost: parameters, multiply-accumulates and latency of the student, with the Pareto front."""

from __future__ import annotations

import math
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ...registry import FIGURES
from ..runs import Runs
from ..seeds import group_by_seed
from .style import COLOURS, MUTED, WIDTH, wrapped

COSTS = {"parameters": "parameters", "macs": "multiply-accumulates an image", "latency_ms": "ms an image"}
MAX_NAMES = 12  # beside the points of a panel: with more, only those on the front


@FIGURES.register
def costs(runs: Runs) -> Figure | None:
    """Accuracy on test against what a network costs; on the line, no cheaper one is more accurate on val."""
    table = runs.tested.dropna(subset=["val_best_accuracy", "parameters", "macs"])
    if table.empty or max(table["parameters"].nunique(), table["macs"].nunique()) < 2:
        return None
    means = group_by_seed(table)[["test_best_accuracy", "val_best_accuracy", *COSTS]].mean()
    costs = {cost: label for cost, label in COSTS.items() if means[cost].notna().all()}
    figure = Figure(figsize=(WIDTH, 3.2))
    panels = figure.subplots(1, len(costs), sharey=True)
    for axes, (cost, label) in zip(panels, costs.items(), strict=True):
        axes.plot(means[cost], 100 * means["test_best_accuracy"], "o", color=COLOURS[0], markersize=5)
        front = means.loc[pareto_front(means[cost].to_dict(), means["val_best_accuracy"].to_dict())]
        axes.plot(front[cost], 100 * front["test_best_accuracy"], color=COLOURS[1], zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        points = {
            str(name): (float(row[cost]), 100 * float(row["test_best_accuracy"])) for name, row in means.iterrows()
        }
        middle = math.sqrt(means[cost].min() * means[cost].max())
        for name in points if len(points) <= MAX_NAMES else front.index[:MAX_NAMES]:
            side: Literal["left", "right"] = "left" if points[name][0] < middle else "right"
            shift = 5 if side == "left" else -5
            axes.annotate(
                wrapped(name), points[name], (shift, -9), textcoords="offset points", ha=side, fontsize=7, color=MUTED
            )
        axes.set_xlabel(label)
        axes.grid(visible=True)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].set_title("line: the Pareto front on val")
    return figure


def pareto_front(cost: dict[Any, float], accuracy: dict[Any, float]) -> list[Any]:
    """The names of which no other is at most as expensive and more accurate, from the cheapest on."""
    front: list[Any] = []
    for name in sorted(cost, key=lambda name: (cost[name], -accuracy[name])):
        if not front or accuracy[name] > accuracy[front[-1]]:
            front.append(name)
    return front
