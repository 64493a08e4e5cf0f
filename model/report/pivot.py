"""Pivot table: one parameter down, one across, and in each cell the test accuracy over the seeds.

If the folder has a published.json, the published accuracies follow in brackets.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.dotted import NON_RESULT_KEYS
from ..errors import UserError, did_you_mean
from ..markdown import markdown_table
from ..search.space.search_file import read_space_if_valid
from .collect import RunRecord, collect_runs, format_value, natural_order
from .published import first_published, read_published

MISSING = "-"


def pivot_table(parent_dir: Path, down: str, across: str) -> str:
    """Test accuracies of the best weights in percent as a Markdown table: mean ± sample standard deviation.

    Args:
        parent_dir: The folder of the runs; only finished ones are counted.
        down: The parameter of the rows: a dotted path, a unique leaf name, or a search's parameter with choices.
        across: The parameter of the columns.

    Raises:
        UserError: There is no run or no such parameter, or runs of one cell differ in a third parameter.
    """
    runs = [run for run in collect_runs(parent_dir) if run.state in ("finished", None)]
    row_path, column_path = (_full_path(runs, name, parent_dir) for name in (down, across))
    cells: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if row_path in run.params and column_path in run.params:
            cell = format_value(run.params[row_path]), format_value(run.params[column_path])
            cells.setdefault(cell, []).append(run)
    for cell, group in cells.items():
        _check_differ_in_seed_only(group, dict(zip((down, across), cell, strict=True)))
    rows = sorted({row for row, _ in cells}, key=_order(parent_dir, down))
    columns = sorted({column for _, column in cells}, key=_order(parent_dir, across))
    published = first_published(read_published(parent_dir))
    body = []
    for row in rows:
        texts = [_format_cell(cells.get((row, column), [])) for column in columns]
        percents = [published.get(frozenset({row, column})) for column in columns]
        body.append([row, *(_with_published(text, percent) for text, percent in zip(texts, percents, strict=True))])
    corner = f"{down}, {across}{' [published]' if published else ''}"
    return markdown_table([corner, *columns], body)


def _full_path(runs: Sequence[RunRecord], name: str, parent_dir: Path) -> str:
    known = dict.fromkeys(path for run in runs for path in run.params)
    if name in known:
        return name
    matches = [path for path in known if path.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{parent_dir}: {name} is ambiguous, write one of: {', '.join(matches)}")
    leaves = {path.rpartition(".")[2] for path in known}
    raise UserError(f"{parent_dir}: no run has a parameter named {name}{did_you_mean(name, leaves | known.keys())}")


def _check_differ_in_seed_only(group: Sequence[RunRecord], cell: dict[str, str]) -> None:
    """Check the runs of one cell, which is given as parameter -> value."""
    first = group[0]
    for run in group[1:]:
        for path in first.params | run.params:
            if path not in (*NON_RESULT_KEYS, "seed") and first.params.get(path) != run.params.get(path):
                same = ", ".join(f"{name} {value}" for name, value in cell.items())
                raise UserError(f"{first.path} and {run.path} have the same {same}, but differ in {path}, too")


def _order(parent_dir: Path, name: str) -> Any:
    """A sort key: choices in the order of search.json, all else in natural order."""
    space = read_space_if_valid(parent_dir)
    choices = space.parameters[name].choice_names if space and name in space.parameters else []
    return lambda text: (choices.index(text) if text in choices else len(choices), natural_order(text))


def _format_cell(group: Sequence[RunRecord]) -> str:
    metrics = [run.metrics["test", "best"] for run in group]
    accuracies = [values["accuracy"] for values in metrics if "accuracy" in values]
    if not accuracies:
        return MISSING
    deviation = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.mean(accuracies):.2f}{deviation} (n={len(accuracies)})"


def _with_published(text: str, percent: float | None) -> str:
    return text if percent is None else f"{text} [{percent:.2f}]"
