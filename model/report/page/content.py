"""What page.js shows: tables, parameters, curves and the cells of a heat map, as plain values for JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...files import read_tail
from ..collect import format_value
from ..runs import Runs
from ..seeds import group_by_seed, param_columns, varied_params
from ..table import Table, plain
from ..tables import make_table

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_CURVES = 200
MAX_POINTS = 100  # of a curve
LOG_LINES = 20  # of a failed run
MAX_LOG = 4096  # characters


def page_content(runs: Runs, groups: Table) -> dict[str, Any]:
    """All data of the page.

    Args:
        groups: The table with a row for runs that differ in their seed only.
    """
    members = {str(name): list(group.index) for name, group in group_by_seed(runs.table)}
    is_grouped = len(members) < len(runs.table)
    params, shared = _params(runs.table)
    return {
        "tables": {
            "groups": _table(groups) if is_grouped else None,
            "runs": _table(make_table(runs)),
        },
        "groups": members,
        "runs": {path: _run(runs, path) | {"params": params[path]} for path in runs.table.index},
        "shared": shared,
        "varied": varied_params(runs.tested),
        "grid": _grid(runs),
        "curves": _curves(runs),
    }


def _table(table: Table) -> dict[str, Any]:
    columns = table.printed
    return {
        "columns": [{"title": each.header, "numeric": each.number_format is not None} for each in columns],
        "rows": [
            {
                "name": columns[0].values[row],
                "values": [_shown_value(each.values[row], is_percent=each.is_percent) for each in columns],
                "texts": [each.cell(row) for each in columns],
            }
            for row in range(table.num_rows)
        ],
    }


def _shown_value(value: Any, *, is_percent: bool) -> Any:
    """A number on the scale on which it is shown, so that a filter means what is read; texts of numbers as numbers."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return 100 * value if is_percent and value is not None else value


def _params(table: DataFrame) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """For each run, the parameters in which runs differ, and those that all runs share."""
    texts = {path: table[path].map(lambda value: format_value(plain(value))) for path in param_columns(table)}
    texts = {path: column.where(table[path].notna(), None) for path, column in texts.items()}
    shared = {path: str(column.iloc[0]) for path, column in texts.items() if column.nunique(dropna=False) == 1}
    differing = {path: column for path, column in texts.items() if path not in shared}
    params = {
        run: {path: str(value) for path, column in differing.items() if (value := plain(column[run])) is not None}
        for run in table.index
    }
    return params, shared


def _run(runs: Runs, path: str) -> dict[str, Any]:
    row = runs.table.loc[path]
    state = plain(row["state"]) or "no run.json"
    return {
        "href": quote(f"{path}/"),
        "state": state,
        "notes": row["notes"],
        "log": _log_tail(runs.parent_dir / path / "train.log") if state == "failed" else "",
    }


def _log_tail(path: Path) -> str:
    return "\n".join(read_tail(path, MAX_LOG).splitlines()[-LOG_LINES:])


def _grid(runs: Runs) -> list[dict[str, Any]]:
    """The varied parameters and accuracies of each tested run, for heat maps."""
    table, varied = runs.tested, varied_params(runs.tested)
    if len(varied) < 2:
        return []
    return [
        {
            "params": {name: format_value(plain(row[name])) for name in varied},
            "val": _percent(row["val_best_accuracy"]),
            "test": _percent(row["test_best_accuracy"]),
        }
        for _, row in table.iterrows()
    ]


def _percent(value: Any) -> float | None:
    number = plain(value)
    return None if number is None else round(100 * number, 4)


def _curves(runs: Runs) -> list[dict[str, Any]]:
    """Accuracy on val over the epochs of each group of seeds, the best on val first."""
    table = runs.table[runs.table["val_best_accuracy"].notna()]
    if table.empty:
        return []
    groups = group_by_seed(table)
    order = groups["val_best_accuracy"].mean().sort_values(ascending=False).index[:MAX_CURVES]
    curves = [_curve(str(name), [runs.val_curve(path) for path in groups.get_group(name).index]) for name in order]
    return [curve for curve in curves if len(curve["epochs"]) > 1]


def _curve(name: str, histories: list[dict[int, float]]) -> dict[str, Any]:
    common = sorted(set.intersection(*map(set, histories)))
    step = -(-len(common) // MAX_POINTS)
    epochs = common[:: step or 1]
    values = [[history[epoch] for history in histories] for epoch in epochs]
    curve: dict[str, Any] = {"name": name, "epochs": epochs, "mean": [round(sum(v) / len(v), 2) for v in values]}
    if len(histories) > 1:
        curve |= {"low": [round(min(v), 2) for v in values], "high": [round(max(v), 2) for v in values]}
    return curve
