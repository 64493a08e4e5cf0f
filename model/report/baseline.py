"""The comparison of each row of a table with the runs of one folder, on test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .runs import Runs, accuracies
from .seeds import group_by_seed, param_columns
from .statistics import Comparison, compare, difference
from .table import Column

if TYPE_CHECKING:
    from pandas import DataFrame


def read_baseline(folder: Path) -> DataFrame:
    """The runs of a folder that have been evaluated on test; they differ in their seed only.

    Raises:
        UserError: The folder does not exist, has no such runs, or several kinds of them.
    """
    runs = Runs.read(folder).tested
    if runs.empty:
        raise UserError(f"{folder}: no run in it has been evaluated on test")
    names = [str(name) for name, _ in group_by_seed(runs)]
    if len(names) > 1:
        raise UserError(
            f"{folder}: {len(names)} kinds of runs ({', '.join(names[:3])}, ...): a baseline is one, with any seeds"
        )
    return runs


def comparison_columns(rows: Sequence[DataFrame], baseline: DataFrame) -> list[Column]:
    """The difference of each row's runs to the baseline, its interval, a verdict, and how many seeds would show it.

    Several differences are judged together: see statistics.py.
    """
    is_own = [_same_params(runs, baseline) for runs in rows]
    values = accuracies(baseline, "test")
    compared = compare(
        [None if own else difference(accuracies(runs, "test"), values) for runs, own in zip(rows, is_own, strict=True)]
    )
    verdicts = ["baseline" if own else each.verdict for own, each in zip(is_own, compared, strict=True)]
    needed = [None if each.difference is None else each.difference.seeds_needed() for each in compared]
    return [
        Column(header="difference [95 %]", values=[_points(each) for each in compared]),
        Column(header="verdict", values=verdicts),
        Column(header="seeds needed", values=[None if number is None else str(number) for number in needed]),
    ]


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
