"""What several runs say of one: whether its difference to a baseline is more than that of seeds, and whether a searched
value is at the end of its range.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import is_number
from ..search.space.parameter import Parameter
from ..search.space.search_file import read_space_if_valid
from ..types import Finding
from .runs import Runs, compare_on
from .seeds import group_by_seed
from .statistics import compare
from .table import plain

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_SEEDS = 3
NEAR_END = 0.1  # of a range's width


def findings_of_runs(folder: Path, baseline: Path | None) -> list[Finding]:
    """Findings on a run from its folder, the runs beside it that differ in their seed only, and those of a baseline."""
    found = [*_ends_of_ranges(folder)]
    if baseline is not None:
        found.append(_seeds(folder, baseline))
    return found


def runs_with_other_seeds(folder: Path) -> DataFrame:
    """The runs of a folder, or beside it and different in their seed only; those with an accuracy on val."""
    own = Runs.read(folder).table
    for _, group in group_by_seed(Runs.read(folder.parent).table):
        if folder.name in group.index:
            own = group
    with_val: DataFrame = own[own["val_best_accuracy"].notna()]
    return with_val


def _seeds(folder: Path, baseline: Path) -> Finding:
    runs, others = (runs_with_other_seeds(each) for each in (folder, baseline))
    counts = f"{len(runs)} and {len(others)} seeds"
    (compared,) = compare([compare_on("val", runs, others)])
    if compared.difference is None or compared.interval is None:
        text = f"with {counts} on both sides, nothing can be said about the difference to {baseline}."
        return Finding("seeds", text, f"{MIN_SEEDS} seeds or more of each")
    low, high = (100 * bound for bound in compared.interval)
    mean = 100 * compared.difference.mean
    text = f"on val the difference to {baseline} is {mean:+.2f} points [{low:+.2f}, {high:+.2f}] ({counts})."
    needed = compared.difference.seeds_needed()
    advice = None
    if compared.verdict == "not shown":
        advice = f"{needed} seeds, which would show this difference" if needed else "nothing: it is as good as none"
    elif min(len(runs), len(others)) < MIN_SEEDS:
        advice = f"{MIN_SEEDS} seeds or more of each"
    return Finding("seeds", text, advice)


def _ends_of_ranges(folder: Path) -> list[Finding]:
    """The searched values that are near an end of their range, where the run is one of a search."""
    space = read_space_if_valid(folder.parent)
    if space is None:
        return []
    row = Runs.read(folder).table.iloc[0]
    searched: dict[str, Parameter] = dict(space.parameters)
    for name, parameter in space.parameters.items():
        if row.get(name) in parameter.choice_names:
            searched |= parameter.conditional(row[name])
    found = []
    for name, each in searched.items():
        value = plain(row.get(name))
        position = each.position(value) if is_number(value) else None
        if position is not None and min(position, 1 - position) <= NEAR_END:
            text = f"{name} is {value:.3g}, near an end of the range that was searched ({each.describe()})."
            found.append(Finding("search range", text, "a wider range"))
    return found
