"""Accuracy of early exits: that of each exit, of the last one, and of the ensemble of all."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from ..seeds import group_by_seed
from .style import COLOURS, new_figure

EXIT = re.compile(r"test_best_exit_(\d+)_accuracy")


@FIGURES.register
def exits(runs: Runs) -> Figure | None:
    """Accuracy on test of every exit, of the last one and of the ensemble of all, in percent: means over the seeds."""
    table = runs.tested
    columns = sorted((name for name in table.columns if EXIT.fullmatch(name)), key=_number)
    table = table.dropna(subset=columns[:1])
    if not columns or table.empty:
        return None
    columns += ["test_best_accuracy", "test_best_ensemble_accuracy"]
    labels = [f"exit {_number(name)}" for name in columns[:-2]] + ["last exit", "ensemble"]
    means = 100 * group_by_seed(table)[columns].mean()
    order = means["test_best_accuracy"].sort_values(ascending=False).index[: len(COLOURS)]
    figure, axes = new_figure()
    for name, colour in zip(order, COLOURS, strict=False):
        axes.plot(labels, means.loc[name], "o-", color=colour, label=str(name))
    axes.set(xlabel="what predicts", ylabel="accuracy on test (%)")
    axes.grid(visible=True)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _number(column: str) -> int:
    match = EXIT.fullmatch(column)
    assert match is not None
    return int(match[1])
