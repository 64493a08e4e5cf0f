"""Heat map of two parameters: the test accuracy in each cell, and a frame around the cell that is best on val."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...registry import FIGURES
from ..runs import Runs
from ..seeds import varied_params
from .style import COLOURS, WIDTH, new_figure, printable


@FIGURES.register
def heat_map(runs: Runs, *, down: str | None = None, across: str | None = None) -> Figure | None:
    """Mean test accuracy of the best weights over two parameters, in percent; seeds are averaged.

    Args:
        down: Dotted path of the parameter of the rows.
        across: That of the columns. Where one is left out, the two parameters in which the runs differ, if it is two.
    """
    table = runs.tested
    if down is None or across is None:
        varied = varied_params(table)
        if len(varied) != 2:
            return None
        across, down = varied
    means = table.groupby([down, across])[["test_best_accuracy", "val_best_accuracy"]].mean()
    test, val = (100 * means[f"{split}_best_accuracy"].unstack() for split in ("test", "val"))
    if min(test.shape) < 2:
        return None
    num_rows, num_columns = test.shape
    figure, axes = new_figure(height=0.9 + 0.34 * num_rows, width=min(WIDTH, 1.9 + 0.62 * num_columns))
    image = axes.imshow(test, cmap="cividis", aspect="auto")
    figure.colorbar(image, ax=axes, label="test accuracy (%)")
    values = test.to_numpy()
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row, column in np.argwhere(np.isfinite(values)).tolist():
        colour = "white" if values[row, column] < middle else "black"
        axes.text(column, row, f"{values[row, column]:.1f}", ha="center", va="center", color=colour)
    if val.notna().to_numpy().any():
        row, column = divmod(int(val.fillna(-1).to_numpy().argmax()), num_columns)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2))
        axes.set_title("framed: the best on val")
    axes.set_xticks(range(num_columns), labels=[_text(value) for value in test.columns])
    axes.set_yticks(range(num_rows), labels=[_text(value) for value in test.index])
    axes.set(xlabel=_leaf(across), ylabel=_leaf(down))
    axes.spines[:].set_visible(False)
    return figure


def _leaf(path: str) -> str:
    return path.rpartition(".")[2].replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(str(value))
