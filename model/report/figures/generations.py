"""Accuracy of born-again generations, and of the ensembles of the first ones (Furlanello et al., ICML 2018)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ...files import is_number, parse_object
from ...registry import FIGURES
from ..runs import Runs
from .style import COLOURS, new_figure

if TYPE_CHECKING:
    from pandas import DataFrame

GENERATION = re.compile(r"(?:(?P<parent>.*)/)?gen_(?P<number>\d+)")
ENSEMBLES = "evaluation/test_best_probabilities.json"


@FIGURES.register
def generations(runs: Runs) -> Figure | None:
    """Accuracy on test by generation, and of the ensemble of all so far where evaluate.py has been run."""
    folders = {parent: by_number for parent, by_number in _by_parent(runs.tested).items() if len(by_number) > 1}
    if not folders:
        return None
    figure, axes = new_figure()
    for (parent, accuracies), colour in zip(sorted(folders.items()), COLOURS, strict=False):
        name = parent or runs.parent_dir.name
        axes.plot(list(accuracies), list(accuracies.values()), "o-", color=colour, label=name)
        ensembles = _ensembles(runs, parent)
        if ensembles:
            label = f"{name}, ensemble of all so far"
            axes.plot(range(len(ensembles)), ensembles, "s--", color=colour, label=label)
    axes.set_xticks(range(max(max(each) for each in folders.values()) + 1))
    axes.set(xlabel="generation", ylabel="accuracy on test (%)")
    axes.grid(visible=True)
    axes.legend(fontsize=8)
    return figure


def _by_parent(table: DataFrame) -> dict[str, dict[int, float]]:
    """Folder of generations -> number of a generation -> accuracy in percent."""
    found: dict[str, dict[int, float]] = {}
    for path, accuracy in table["test_best_accuracy"].items():
        if match := GENERATION.fullmatch(str(path)):
            found.setdefault(match["parent"] or "", {})[int(match["number"])] = 100 * float(accuracy)
    return {parent: dict(sorted(by_number.items())) for parent, by_number in found.items()}


def _ensembles(runs: Runs, parent: str) -> list[float]:
    """Accuracies in percent of the first generation, of the first two, ...; empty where they are not evaluated."""
    try:
        values = parse_object(runs.parent_dir / parent / ENSEMBLES).get("ensemble_accuracy", [])
    except ValueError:
        return []
    return [100 * value for value in values if is_number(value)] if isinstance(values, list) else []
