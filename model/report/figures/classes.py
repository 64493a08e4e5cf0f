"""Accuracy by class on test: the student, the baseline and the teacher, of evaluations that there are."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from .style import COLOURS, new_figure, printable

MAX_CLASSES = 40


@FIGURES.register
def classes(runs: Runs) -> Figure | None:
    """Accuracy on test by class: the run that is best on val, its teacher and the baseline, where evaluated."""
    evaluated = runs.evaluated()
    if not evaluated:
        return None
    path, evaluation = evaluated[0]
    others = {"baseline": runs.evaluation_of_baseline(), "teacher": runs.evaluation_of_teacher(path)}
    shown = {path: evaluation} | {name: each for name, each in others.items() if each is not None}
    accuracies = {name: _accuracies(each) for name, each in shown.items()}
    names = list(accuracies[path])
    if not 1 < len(names) <= MAX_CLASSES:
        return None
    figure, axes = new_figure(height=0.9 + 0.3 * len(names))
    for (name, values), colour, marker in zip(accuracies.items(), COLOURS, "osD", strict=False):
        axes.plot([values.get(each, math.nan) for each in names], range(len(names)), marker, color=colour, label=name)
    axes.set_yticks(range(len(names)), labels=list(map(printable, names)))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("accuracy on test (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16 - 0.6 / len(names)), ncols=len(shown), fontsize=8)
    return figure


def _accuracies(evaluation: dict[str, Any]) -> dict[str, float]:
    """Class -> accuracy in percent; NaN where the split has no image of it."""
    rows = evaluation.get("classes", [])
    return {str(row["class"]): math.nan if row["accuracy"] is None else 100 * row["accuracy"] for row in rows}
