"""A table of texts and numbers, before it is Markdown, CSV, LaTeX or JSON (formats.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pandas import Series

MISSING = "-"
NumberFormat = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Args:
        values: A text or a number for each row, None where a row has none. Accuracies are in [0, 1].
        number_format: How a number is printed; None for a column of texts.
        deviations: Standard deviations over the runs of each row; None where rows are single runs.
        counts: How many of a row's runs have a value, where it is not all of them.
        is_printed: Whether people are shown it; files for programs have all columns.
        best: Which of its numbers is the best.
    """

    header: str
    values: Sequence[Any]
    number_format: NumberFormat | None = None
    deviations: Sequence[float | None] | None = None
    counts: Sequence[int | None] | None = None
    is_printed: bool = True
    best: Literal["highest", "lowest"] | None = None

    @property
    def is_percent(self) -> bool:
        """Whether its values in [0, 1] are shown in percent."""
        return self.number_format is percent

    def hidden(self) -> Column:
        return replace(self, is_printed=False)

    def cell(self, row: int) -> str:
        """The text that people are shown."""
        value = self.values[row]
        if value is None:
            return MISSING
        if self.number_format is None:
            return str(value)
        text = self.number_format(value)
        deviation = None if self.deviations is None else self.deviations[row]
        if deviation is not None:
            text += f" ± {self.number_format(deviation)}"
        count = None if self.counts is None else self.counts[row]
        return text if count is None else f"{text} (n={count})"

    def best_row(self) -> int | None:
        """The row with the best number; the first of several."""
        rows = [row for row, value in enumerate(self.values) if value is not None]
        if self.best is None or not rows:
            return None
        return (max if self.best == "highest" else min)(rows, key=lambda row: self.values[row])


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and lines of text that stand below them."""

    columns: Sequence[Column]
    notes: Sequence[str] = ()

    @property
    def num_rows(self) -> int:
        return len(self.columns[0].values)

    @property
    def printed(self) -> list[Column]:
        return [column for column in self.columns if column.is_printed]


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def four_decimals(value: float) -> str:
    return f"{value:.4f}"


def two_decimals(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float) -> str:
    return f"{value:+.2f}"


def integer(value: float) -> str:
    return f"{value:.0f}"


def with_commas(value: float) -> str:
    return f"{value:,.0f}"


def millions(value: float) -> str:
    return f"{value / 1e6:,.1f} M"


def is_numeric(values: Series[Any]) -> bool:
    """Whether a column of a DataFrame holds numbers."""
    return values.dtype.kind in "iuf"


def plain(value: Any) -> Any:
    """A value of a DataFrame as Python's own type, None where it is missing."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def as_integer(value: Any) -> Any:
    """The same, a number without a fraction as an integer."""
    number = plain(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number
