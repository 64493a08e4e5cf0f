"""Parallel coordinates: a line a run through the values of its parameters, coloured by its accuracy on val."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ...registry import FIGURES
from ..collect import format_value, natural_order
from ..runs import Runs
from ..seeds import varied_params
from ..table import is_numeric, plain
from .style import MUTED, new_figure

if TYPE_CHECKING:
    from pandas import Series

LOG_SCALE = 30  # a parameter whose largest value is as many times its smallest has a logarithmic axis


@FIGURES.register
def parallel_coordinates(runs: Runs) -> Figure | None:
    """A line for each run through its parameters; the colour is the accuracy on val, in percent."""
    table = runs.table.dropna(subset=["val_best_accuracy"])
    params = varied_params(table)
    if len(params) < 2 or len(table) < 3:
        return None
    table = table.sort_values("val_best_accuracy")
    accuracies = 100 * table["val_best_accuracy"]
    colours = ScalarMappable(Normalize(accuracies.min(), accuracies.max()), colormaps["cividis"])
    figure, axes = new_figure(height=3.6)
    positions = {}
    for x, name in enumerate(params):
        positions[name], ticks = axis(table[name])
        axes.axvline(x, color=MUTED, linewidth=0.8)
        for position, text in ticks:
            axes.annotate(text, (x, position), (4, 0), textcoords="offset points", fontsize=7, va="center")
    for run, accuracy in accuracies.items():
        line = [positions[name][run] for name in params]
        axes.plot(range(len(params)), line, color=colours.to_rgba(accuracy), linewidth=1.2, alpha=0.8)
    figure.colorbar(colours, ax=axes, label="accuracy on val (%)")
    axes.set_xticks(range(len(params)), labels=[name.rpartition(".")[2].replace("_", " ") for name in params])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("parameter")
    return figure


def axis(values: Series[Any]) -> tuple[dict[Any, float], list[tuple[float, str]]]:
    """Where each run is on a parameter's axis, in [0, 1], and the labels of the axis."""
    known = values.dropna()
    if is_numeric(known) and known.nunique() > 6:
        low, high = float(known.min()), float(known.max())
        scale = math.log if low > 0 and high / low >= LOG_SCALE else float
        span = scale(high) - scale(low)
        placed = {run: (scale(float(value)) - scale(low)) / span for run, value in known.items()}
        ticks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    else:
        texts = known.map(lambda value: format_value(plain(value)))
        order = sorted(texts.unique(), key=natural_order)
        positions = {text: number / max(1, len(order) - 1) for number, text in enumerate(order)}
        placed = {run: positions[text] for run, text in texts.items()}
        ticks = [(position, text) for text, position in positions.items()]
    return placed | {run: math.nan for run in values.index if run not in placed}, ticks
