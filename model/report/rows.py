"""The rows of a table in their order: runs, or groups of runs that differ in their seed only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config.params import RATES
from .collect import format_value, natural_order
from .runs import Runs
from .seeds import group_by_seed
from .table import Column, NumberFormat, as_integer, four_decimals, is_numeric, percent, plain

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.api.typing import DataFrameGroupBy

HIGHEST_FIRST = (*RATES, "images_per_second")  # endings of columns that are sorted so


class Rows:
    """The rows of a table in their order, each of one run or of several.

    Args:
        by_seed: Whether runs that differ in their seed only are one row.
        sort_by: As in `Selection`; by default the accuracy on val.
        top: The number of rows that are kept.
    """

    def __init__(self, runs: Runs, *, by_seed: bool, sort_by: str | None = None, top: int | None = None) -> None:
        self.runs, self.by_seed = runs, by_seed
        self._groups: DataFrameGroupBy[Any, Any] = (
            group_by_seed(runs.table) if by_seed else runs.table.groupby("path", sort=False)
        )
        first = {str(name): min(group.index, key=natural_order) for name, group in self._groups}
        order = self._order(sort_by or "val_best_accuracy")
        names = sorted(first, key=lambda name: (*order(name), natural_order(first[name])))
        self.num_all, self.names = len(names), names[:top]

    def _order(self, sort_by: str) -> Callable[[str], tuple[bool, Any]]:
        """A sort key of rows' names: rows without a value come last."""
        is_turned, column = sort_by.startswith("-"), self.runs.column(sort_by.removeprefix("-"))
        groups = self._groups[column]
        if not is_numeric(self.runs.table[column]):
            texts = {str(name): plain(value) for name, value in groups.first().items()}
            ordered = sorted({format_value(text) for text in texts.values() if text is not None}, key=natural_order)
            sign = -1 if is_turned else 1
            rank = {text: sign * number for number, text in enumerate(ordered)}
            return lambda name: (texts[name] is None, rank.get(format_value(texts[name]), 0))
        means = {str(name): float(value) for name, value in groups.mean().items()}
        sign = -1 if column.endswith(HIGHEST_FIRST) != is_turned else 1
        return lambda name: (math.isnan(means[name]), 0.0 if math.isnan(means[name]) else sign * means[name])

    @property
    def sizes(self) -> list[int]:
        sizes = self._groups.size()
        return [int(sizes[name]) for name in self.names]

    def runs_of(self, name: str) -> DataFrame:
        """The runs of a row."""
        runs: DataFrame = self.runs.table.loc[self._groups.groups[name]]
        return runs

    @property
    def with_results(self) -> DataFrame:
        """The runs of all rows that have a result."""
        shown: DataFrame = self.runs.table.loc[[path for name in self.names for path in self._groups.groups[name]]]
        with_results: DataFrame = shown[shown[["val_best_accuracy", "test_best_accuracy"]].notna().any(axis=1)]
        return with_results

    def first(self, column: str) -> list[Any]:
        """The value of each row's first run, None where it has none."""
        values = self._groups[column].first()
        return [plain(values[name]) for name in self.names]

    def numbers(self, header: str, column: str, number_format: NumberFormat, *, spread: bool = False) -> Column:
        """A column of means over the runs of each row.

        Args:
            spread: Whether it also has their standard deviations.
        """
        groups, to_plain = self._groups[column], plain if number_format in (percent, four_decimals) else as_integer
        means, deviations, counts = groups.mean(), groups.std(), groups.count()
        return Column(
            header=header,
            values=[to_plain(means[name]) for name in self.names],
            number_format=number_format,
            deviations=[plain(deviations[name]) for name in self.names] if spread else None,
            counts=[
                int(counts[name]) if 0 < counts[name] < size else None
                for name, size in zip(self.names, self.sizes, strict=True)
            ],
        )

    def notes(self) -> list[str | None]:
        """What is unusual about the runs of each row."""
        return [_notes(self.runs_of(name)) for name in self.names]


def _notes(runs: DataFrame) -> str | None:
    notes = list(dict.fromkeys(note for note in runs["notes"] if note))
    if len(runs) > 1 and "seed" in runs and runs["seed"].nunique(dropna=False) < len(runs):
        notes.append("several runs of one seed")
    return "; ".join(notes) or None
