"""Pivot table: one parameter down, one across, and in each cell the test accuracy over the seeds.

If the folder has a published.json, the published accuracies follow in brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..markdown import markdown_table
from ..search.space.search_file import read_space_if_valid
from .collect import format_value, natural_order
from .published import first_published, read_published
from .runs import Runs
from .seeds import param_columns
from .table import MISSING, percent, plain

if TYPE_CHECKING:
    from pandas import DataFrame


def pivot_table(runs: Runs, down: str, across: str) -> str:
    """Test accuracies of the best weights in percent as a Markdown table: mean ± sample standard deviation.

    Args:
        runs: Only finished ones are counted.
        down: The parameter of the rows: a dotted path, a unique leaf name, or a search's parameter with choices.
        across: The parameter of the columns.

    Raises:
        UserError: There is no such parameter, or runs of one cell differ in a third parameter.
    """
    parent_dir = runs.parent_dir
    paths = [runs.param(name) for name in (down, across)]
    table = runs.table[runs.table["state"].fillna("finished").eq("finished")].dropna(subset=paths)
    keys = [table[path].map(lambda value: format_value(plain(value))) for path in paths]
    cells = {cell: group for cell, group in table.groupby([key.to_numpy() for key in keys])}  # noqa: C416
    for (row, column), group in cells.items():
        _check_differ_in_seed_only(group, f"{down} {row}, {across} {column}")
    rows = sorted({row for row, _ in cells}, key=_order(parent_dir, down))
    columns = sorted({column for _, column in cells}, key=_order(parent_dir, across))
    published = first_published(read_published(parent_dir))
    body = []
    for row in rows:
        texts = [_cell(cells.get((row, column))) for column in columns]
        percents = [published.get(frozenset({row, column})) for column in columns]
        body.append([row, *(_with_published(text, number) for text, number in zip(texts, percents, strict=True))])
    corner = f"{down}, {across}{' [published]' if published else ''}"
    return markdown_table([corner, *columns], body)


def _check_differ_in_seed_only(group: DataFrame, same: str) -> None:
    for path in param_columns(group):
        values = group[path].map(lambda value: format_value(plain(value)))
        if path != "seed" and values.nunique() > 1:
            other = values.index[values != values.iloc[0]][0]
            raise UserError(f"{values.index[0]} and {other} have the same {same}, but differ in {path}, too")


def _order(parent_dir: Path, name: str) -> Callable[[str], tuple[int, Any]]:
    """A sort key: choices in the order of search.json, all else in natural order."""
    space = read_space_if_valid(parent_dir)
    choices: Sequence[str] = space.parameters[name].choice_names if space and name in space.parameters else []
    return lambda text: (choices.index(text) if text in choices else len(choices), natural_order(text))


def _cell(group: DataFrame | None) -> str:
    if group is None or group["test_best_accuracy"].isna().all():
        return MISSING
    accuracies = group["test_best_accuracy"].dropna()
    deviation = f" ± {percent(accuracies.std())}" if len(accuracies) > 1 else ""
    return f"{percent(accuracies.mean())}{deviation} (n={len(accuracies)})"


def _with_published(text: str, number: float | None) -> str:
    return text if number is None else f"{text} [{number:.2f}]"
