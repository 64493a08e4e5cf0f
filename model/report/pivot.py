"""A table of two ways: one parameter down, one across, and in the cells what came out, over the seeds.

Where the folder has a published.json, what others published stands behind that in brackets.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..config.dotted import NON_RESULT_KEYS
from ..errors import UserError, did_you_mean
from ..files import read_json
from ..search.space.schema import SEARCH_FILE
from .collect import RunRecord, as_text, collect_runs, natural_order
from .published import first_of_each, read_published

MISSING = "-"


def pivot_table(parent_dir: Path, down: str, across: str) -> str:
    """Accuracies of the best weights on test, in percent, as a Markdown table: mean ± sample standard deviation.

    Args:
        parent_dir: Where to look for runs; only finished ones count.
        down: The parameter that makes the rows: a dotted path, a leaf's name, or what a search calls its choices.
        across: The parameter that makes the columns.

    Raises:
        UserError: No run, no such parameter, or runs that a cell cannot hold as they differ in a third one, too.
    """
    runs = [run for run in collect_runs(parent_dir) if run.state in ("finished", None)]
    row_path, column_path = (_path(runs, name, parent_dir) for name in (down, across))
    cells: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if row_path in run.params and column_path in run.params:
            place = as_text(run.params[row_path]), as_text(run.params[column_path])
            cells.setdefault(place, []).append(run)
    for place, group in cells.items():
        _refuse_third(group, place, (down, across))
    rows = sorted({row for row, _ in cells}, key=_order(parent_dir, down))
    columns = sorted({column for _, column in cells}, key=_order(parent_dir, across))
    published = first_of_each(read_published(parent_dir))
    body = []
    for row in rows:
        values = [published.get(frozenset({row, column})) for column in columns]
        found = [_cell(cells.get((row, column), [])) for column in columns]
        body.append([row, *(_with_published(cell, value) for cell, value in zip(found, values, strict=True))])
    corner = f"{down}, {across}{' [published]' if published else ''}"
    table: str = tabulate(body, headers=[corner, *columns], tablefmt="pipe", disable_numparse=True)
    return table


def _path(runs: Sequence[RunRecord], name: str, parent_dir: Path) -> str:
    known = dict.fromkeys(path for run in runs for path in run.params)
    ending = [path for path in known if path == name or path.endswith(f".{name}")]
    if name in known:
        return name
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise UserError(f"{parent_dir}: {name} stands for several values: {', '.join(ending)}; write one of these")
    leaves = {path.rpartition(".")[2] for path in known}
    raise UserError(
        f"{parent_dir}: no run has a parameter of the name {name}{did_you_mean(name, leaves | known.keys())}"
    )


def _refuse_third(group: Sequence[RunRecord], place: tuple[str, str], names: tuple[str, str]) -> None:
    first = group[0]
    for run in group[1:]:
        for path in first.params | run.params:
            if path not in (*NON_RESULT_KEYS, "seed") and first.params.get(path) != run.params.get(path):
                told = ", ".join(f"{name} {value}" for name, value in zip(names, place, strict=True))
                raise UserError(f"{first.path} and {run.path} have the same {told}, but differ in {path}, too")


def _order(parent_dir: Path, name: str) -> Any:
    """A sort key: choices as search.json has them, all else in natural order."""
    search = read_json(parent_dir / SEARCH_FILE) if (parent_dir / SEARCH_FILE).exists() else {}
    parameter = search.get("parameters", {}).get(name, {})
    choices = list(parameter.get("choices", {})) if isinstance(parameter, dict) else []
    return lambda text: (choices.index(text) if text in choices else len(choices), natural_order(text))


def _cell(group: Sequence[RunRecord]) -> str:
    numbers = [run.metrics["test", "best"]["accuracy"] for run in group if "accuracy" in run.metrics["test", "best"]]
    if not numbers:
        return MISSING
    spread = f" ± {100 * statistics.stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{100 * statistics.mean(numbers):.2f}{spread} (n={len(numbers)})"


def _with_published(cell: str, percent: float | None) -> str:
    return cell if percent is None else f"{cell} [{percent:.2f}]"
