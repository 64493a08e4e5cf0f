"""`--diff A B`: what differs between the runs of two folders, results included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .collect import COSTS, SPLITS, WEIGHTS, format_value, schema_position
from .dataframe import BASIS
from .runs import Runs, compare_on, refuse_several_kinds
from .seeds import param_columns
from .statistics import compare
from .table import Column, NumberFormat, Table, four_decimals, integer, percent, plain, with_commas

RESULTS: dict[str, NumberFormat] = {
    **{f"{split}_{weights}_accuracy": percent for split in SPLITS for weights in WEIGHTS},
    "epochs": integer,
    **dict.fromkeys(COSTS, with_commas),
    "latency_ms": four_decimals,
}


def diff(one: Path, other: Path) -> Table:
    """The parameters and the results in which two folders differ, a row each.

    A folder holds one run, or runs that differ in their seed only, whose results are averaged.

    Raises:
        UserError: A folder does not exist, or holds no run or several kinds of them.
    """
    both = [_only_kind(folder) for folder in (one, other)]
    written = {name for runs in both for names in runs.written.values() for name in names}
    rows: dict[str, list[str | None]] = {}
    for name in sorted({path for runs in both for path in param_columns(runs.table)}, key=_order):
        texts = [_values(runs, name) for runs in both]
        if name in written or None not in texts:  # not the defaults of a component that one of them does not have
            rows[name] = texts
    for name, number_format in RESULTS.items():
        rows[name.replace("_", " ")] = [_mean(runs, name, number_format) for runs in both]
    for name in BASIS:
        rows[name.replace("_", " ")] = [_values(runs, name) for runs in both]
    differing = {name: texts for name, texts in rows.items() if texts[0] != texts[1]}
    columns = [Column(header="", values=list(differing))]
    for side, folder in enumerate((one, other)):
        columns.append(Column(header=str(folder), values=[texts[side] for texts in differing.values()]))
    alike = "The two folders are alike in all parameters and results."
    return Table(columns, _notes(*both) if differing else [alike])


def _order(path: str) -> tuple[int, str]:
    return schema_position(path), path


def _only_kind(folder: Path) -> Runs:
    runs = Runs.read(folder)
    refuse_several_kinds(runs.table, folder)
    return runs


def _values(runs: Runs, name: str) -> str | None:
    """The different values of a column, as text."""
    if name not in runs.table:
        return None
    values: list[Any] = [plain(value) for value in runs.table[name]]
    texts = dict.fromkeys(format_value(value) for value in values if value is not None)
    return ", ".join(texts) or None


def _mean(runs: Runs, name: str, number_format: NumberFormat) -> str | None:
    values = runs.table[name].dropna()
    if values.empty:
        return None
    spread = f" ± {number_format(float(values.std()))} (n={len(values)})" if len(values) > 1 else ""
    return number_format(float(values.mean())) + spread


def _notes(one: Runs, other: Runs) -> list[str]:
    """Whether the difference on test is more than that of seeds."""
    (compared,) = compare([compare_on("test", other.table, one.table)])
    if compared.difference is None or compared.interval is None:
        return []
    low, high = (100 * bound for bound in compared.interval)
    mean = 100 * compared.difference.mean
    verdict = f"the second is {compared.verdict}" if compared.verdict != "not shown" else "no difference is shown"
    return [f"On test, {mean:+.2f} percentage points [{low:+.2f}, {high:+.2f}]: {verdict}."]
