"""Reliability diagram: accuracy against confidence on test, of runs that evaluate.py has been run on.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ...registry import FIGURES
from ..runs import Runs
from .style import COLOURS, MUTED, new_figure

MAX_RUNS = 4  # the best on val


@FIGURES.register
def reliability(runs: Runs) -> Figure | None:
    """Reliability on test: accuracy of images by the confidence of their prediction, in 15 bins; best runs on val."""
    return reliability_figure(dict(runs.evaluated()[:MAX_RUNS]))


def reliability_figure(evaluations: Mapping[str, dict[str, Any]]) -> Figure | None:
    """A line for each evaluation file that has bins; None where none has."""
    with_bins = {name: each for name, each in evaluations.items() if each.get("reliability")}
    if not with_bins:
        return None
    figure, axes = new_figure(height=4.0, width=4.6)
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle=":", linewidth=1.2)
    for (name, evaluation), colour in zip(with_bins.items(), COLOURS, strict=False):
        bins = evaluation["reliability"]
        points = zip(bins["counts"], bins["confidence"], bins["accuracy"], strict=True)
        shown = [(100 * confidence, 100 * accuracy) for count, confidence, accuracy in points if count]
        label = f"{name}: calibration error {100 * evaluation['calibration_error']:.1f} %"
        axes.plot(*zip(*shown, strict=True), "o-", color=colour, markersize=3.5, label=label)
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", title="below the diagonal: too confident")
    axes.grid(visible=True, axis="both")
    axes.legend(loc="upper left", fontsize=7)
    return figure
