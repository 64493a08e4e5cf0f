"""The accuracy of every run: a dot a seed, and the mean of the runs that differ in their seed only."""

from __future__ import annotations

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from ..seeds import group_by_seed
from .style import COLOURS, MUTED, headline, new_figure, wrapped

MAX_GROUPS = 40


@FIGURES.register
def accuracies(runs: Runs) -> Figure | None:
    """Test accuracy of the best weights in percent; groups are in the order of their accuracy on val."""
    table = runs.tested
    if table.empty:
        return None
    groups = group_by_seed(table)
    order = groups["val_best_accuracy"].mean().sort_values(ascending=False, na_position="last").index[:MAX_GROUPS]
    figure, axes = new_figure(height=0.9 + 0.34 * len(order))
    for row, name in enumerate(order):
        values = 100 * groups.get_group(name)["test_best_accuracy"].to_numpy()
        mean = float(values.mean())
        axes.plot(values, [row] * len(values), "o", color=COLOURS[0], alpha=0.5, markersize=5, markeredgewidth=0)
        axes.plot(mean, row, "|", color=MUTED, markersize=14, markeredgewidth=2)
        axes.annotate(f"{mean:.2f}", (mean, row), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(order)), labels=[wrapped(str(name)) for name in order])
    axes.set_ylim(len(order) - 0.5, -0.8)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("test accuracy (%)")
    headline(figure, "a dot is a run, a bar the mean over its seeds")
    return figure
