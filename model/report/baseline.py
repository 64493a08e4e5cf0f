"""The comparison of each row of a table with the runs of one folder, on test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .runs import accuracies, compare_on
from .seeds import param_columns
from .statistics import Comparison, compare
from .table import Column

if TYPE_CHECKING:
    from pandas import DataFrame


def comparisons(rows: Sequence[DataFrame], baseline: DataFrame) -> list[Comparison | None]:
    """Each row's runs compared with the baseline on test, judged together.

    None for the baseline itself, and for runs that have not been evaluated.
    """
    is_compared = [bool(accuracies(runs, "test")) and not _same_params(runs, baseline) for runs in rows]
    others = [runs for runs, compared in zip(rows, is_compared, strict=True) if compared]
    judged = iter(compare([compare_on("test", runs, baseline) for runs in others]))
    return [next(judged) if compared else None for compared in is_compared]


def comparison_columns(rows: Sequence[DataFrame], baseline: DataFrame) -> list[Column]:
    """The difference of each row's runs to the baseline, its interval, a verdict, and how many seeds would show it."""
    compared = comparisons(rows, baseline)
    differences = [None if each is None else each.difference for each in compared]
    needed = [None if each is None else each.seeds_needed() for each in differences]
    return [
        Column(header="difference [95 %]", values=[None if each is None else _points(each) for each in compared]),
        Column(header="verdict", values=[_verdict(each, runs) for each, runs in zip(compared, rows, strict=True)]),
        Column(header="seeds needed", values=[None if number is None else str(number) for number in needed]),
    ]


def _verdict(comparison: Comparison | None, runs: DataFrame) -> str | None:
    if comparison is not None:
        return comparison.verdict
    return "baseline" if accuracies(runs, "test") else None


def _same_params(runs: DataFrame, other: DataFrame) -> bool:
    """Whether two sets of runs have the same parameters beside the seed."""
    one, two = (
        {name: value for name, value in table.iloc[0][param_columns(table)].dropna().items() if name != "seed"}
        for table in (runs, other)
    )
    return one == two


def _points(comparison: Comparison) -> str | None:
    """Percentage points with their sign."""
    if comparison.difference is None or comparison.interval is None:
        return None
    low, high = comparison.interval
    return f"{100 * comparison.difference.mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
