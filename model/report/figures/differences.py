"""Forest plot: the difference of each group of seeds to the baseline on test, with its interval."""

from __future__ import annotations

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..baseline import comparisons
from ..runs import Runs
from ..seeds import group_by_seed
from .style import COLOURS, MUTED, headline, new_figure, wrapped

COLOUR_OF_VERDICT = {"better": COLOURS[2], "worse": COLOURS[1], "not shown": MUTED}


@FIGURES.register
def differences(runs: Runs) -> Figure | None:
    """Differences in percentage points; only where there is a baseline."""
    if runs.baseline is None or runs.tested.empty:
        return None
    groups = group_by_seed(runs.tested)
    order = groups["val_best_accuracy"].mean().sort_values(ascending=False, na_position="last").index
    compared = zip(order, comparisons([groups.get_group(name) for name in order], runs.baseline), strict=True)
    shown = [(name, each) for name, each in compared if each is not None and each.interval is not None]
    if not shown:
        return None
    figure, axes = new_figure(height=0.9 + 0.32 * len(shown))
    for row, (_, each) in enumerate(shown):
        assert each.difference is not None
        assert each.interval is not None
        mean, (low, high) = 100 * each.difference.mean, (100 * bound for bound in each.interval)
        colour = COLOUR_OF_VERDICT[each.verdict]
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(mean, row, "o", color=colour, markersize=6)
        axes.annotate(f"{mean:+.2f}", (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.axvline(0, color=MUTED, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(shown)), labels=[wrapped(str(name)) for name, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.8)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("difference to the baseline on test (percentage points)")
    headline(figure, "mean and 95 % interval")
    return figure
