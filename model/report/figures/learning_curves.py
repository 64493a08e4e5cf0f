"""Learning curves: accuracy on val after each epoch, the mean over the seeds and the range between them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from ..seeds import group_by_seed
from .style import COLOURS, new_figure

MAX_CURVES = len(COLOURS)  # more cannot be told apart: the best on val are drawn


@FIGURES.register
def learning_curves(runs: Runs) -> Figure | None:
    """Accuracy on val in percent over the epochs of finished runs."""
    curves = {path: runs.val_curve(path) for path in runs.tested.index}
    table = runs.tested.loc[[path for path, curve in curves.items() if len(curve) > 1]]
    if table.empty:
        return None
    groups = group_by_seed(table)
    order = groups["val_best_accuracy"].mean().sort_values(ascending=False).index
    figure, axes = new_figure(height=3.6)
    for name, colour in zip(order, COLOURS, strict=False):
        of_group = [curves[path] for path in groups.get_group(name).index]
        epochs = sorted(set.intersection(*map(set, of_group)))
        values = [[curve[epoch] for curve in of_group] for epoch in epochs]
        axes.plot(epochs, [sum(each) / len(each) for each in values], color=colour, label=name)
        axes.fill_between(epochs, *_range(values), color=colour, alpha=0.18, linewidth=0)
    shown = f"; the best {MAX_CURVES} of {len(order)}" if len(order) > MAX_CURVES else ""
    axes.set(xlabel="epoch", ylabel="accuracy on val (%)", title=f"mean and range over the seeds{shown}")
    axes.grid(visible=True)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _range(values: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [min(each) for each in values], [max(each) for each in values]
