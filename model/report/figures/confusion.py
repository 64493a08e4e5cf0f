"""Confusion matrix of one run on test: the best on val of those that evaluate.py has been run on."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from .style import new_figure, printable

MAX_CLASSES = 40  # more cannot be read at the width of a page
MAX_COUNTS = 15  # with as many classes, the counts are written into the cells


@FIGURES.register
def confusion(runs: Runs) -> Figure | None:
    """Confusion matrix on test of the run that is best on val: images of each true class by their predicted one."""
    evaluated = runs.evaluated()
    if not evaluated:
        return None
    path, evaluation = evaluated[0]
    return confusion_figure(evaluation, path)


def confusion_figure(evaluation: dict[str, Any], title: str) -> Figure | None:
    """The matrix of an evaluation file; None where it has none, or too many classes."""
    names = [printable(str(row["class"])) for row in evaluation.get("classes", [])]
    counts = np.array(evaluation.get("confusion", []), dtype=float)
    if counts.shape != (len(names), len(names)) or not 1 < len(names) <= MAX_CLASSES:
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(1.8 + 0.38 * len(names), 6.3)
    figure, axes = new_figure(height=size, width=size)
    image = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    if len(names) <= MAX_COUNTS:
        for (row, column), share in np.ndenumerate(shares):
            if count := int(counts[row, column]):
                colour = "black" if share > 0.5 else "white"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), labels=names, rotation=90)
    axes.set_yticks(range(len(names)), labels=names)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.spines[:].set_visible(False)
    return figure
