"""One table of all runs below a folder: the parameters that differ, and the results.

Rows are sorted by the validation accuracy of the best weights. Rows without one (`"val_size": 0`, or the run has not
got that far) come last, in the order of their paths: no row is ever ranked by a test accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ..config.folder import Weights
from ..config.params import RATES
from ..errors import OptionError, UserError
from ..files import write_text
from ..registry import TABLE_FORMATS
from . import formats  # registers them
from .baseline import comparison_columns
from .collect import SPLITS, format_value, natural_order
from .comparability import incomparable
from .published import published_columns
from .rows import Rows
from .runs import Runs
from .seeds import is_choice, param_columns
from .table import Column, Table, four_decimals, integer, is_numeric, millions, percent, with_commas

if TYPE_CHECKING:
    from pandas import DataFrame

# Metrics that every run has: the printed table would be too wide.
NOT_PRINTED = ("loss", "top5_accuracy", "macro_recall", "macro_f1")
NO_COLUMN = ("accuracy", "epoch", "num_samples")  # keys of a metrics file without a column of that name
HOW_JUDGED = (
    'All intervals together have 95 % (Holm); "not shown": the interval contains 0. Seeds needed: to show a true '
    "difference of this size in 80 % of all cases."
)
WRITTEN = ("markdown", "csv")  # formats of the files
ENDINGS = {"markdown": "md", "latex": "tex"}  # of files, where they are not the format's name

assert formats


def results_table(parent_dir: Path, *, group_by_seed: bool = False, only: Collection[str] | None = None) -> str:
    """All runs in and below a folder as a Markdown table; accuracies in percent.

    Args:
        parent_dir: The folder of the runs.
        group_by_seed: One row for finished runs that differ in `seed` only: mean ± sample standard deviation.
        only: The paths of the runs to show; all if left out.

    Raises:
        UserError: The folder does not exist, or there is no run in it.
    """
    runs = Runs.read(parent_dir)
    return render(make_table(runs if only is None else runs.only(only), by_seed=group_by_seed), "markdown")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows and columns of a table are shown.

    Args:
        sort_by: A column of `results`; accuracies and speeds begin with the highest value, all else with the lowest. A
            minus before the name turns the order round.
        top: Number of rows.
        columns: Headers of the table, or columns of `results`.
        published: Whether published accuracies stand beside the runs' own; see published.py.
    """

    sort_by: str | None = None
    top: int | None = None
    columns: tuple[str, ...] = ()
    published: bool = False


def write_results(
    runs: Runs,
    *,
    group_by_seed: bool = False,
    selection: Selection | None = None,
    format_name: str = "markdown",
) -> str:
    """Write results.md and results.csv into the folder of the runs and return the table.

    The CSV file has unrounded values, accuracies in [0, 1], empty cells for missing values, standard deviations in
    columns of their own, and a few more columns than the Markdown table.

    Args:
        runs: If they have a baseline, each row is compared with it on test, and rows are grouped by seed.
        selection: The rows and columns of the table.
        format_name: A registered format, in which the table is returned and, if it is another one, written, too.

    Raises:
        UserError: The folder cannot be written to; there is no such format or column.
    """
    parent_dir = runs.parent_dir
    table = make_table(runs, by_seed=group_by_seed or runs.baseline is not None, selection=selection)
    texts = {name: render(table, name) for name in (*WRITTEN, format_name)}
    try:
        for name, text in texts.items():
            write_text(parent_dir / f"results.{ENDINGS.get(name, name)}", text if text.endswith("\n") else f"{text}\n")
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write the results here ({error.strerror})") from None
    return texts[format_name]


def render(table: Table, format_name: str) -> str:
    """A table in one of the registered formats.

    Raises:
        UserError: There is no such format.
    """
    try:
        text: str = TABLE_FORMATS.build(format_name, table)
    except OptionError as error:
        raise UserError(f"--format: {error}") from None
    return text


def make_table(runs: Runs, *, by_seed: bool = False, selection: Selection | None = None) -> Table:
    """The results of runs, a row a run, or a row for runs that differ in their seed only.

    Raises:
        UserError: The selection names a column that does not exist.
    """
    selection = selection or Selection()
    rows = Rows(runs, by_seed=by_seed, sort_by=selection.sort_by, top=selection.top)
    states = rows.first("state")
    notes = rows.notes()
    columns = [Column(header="path", values=rows.names), *_params_columns(rows)]
    if any(state not in ("finished", None) for state in states):
        columns.append(Column(header="state", values=states))
    if by_seed:
        columns.append(Column(header="n", values=rows.sizes, number_format=integer))
    columns += _metrics_columns(rows)
    if runs.baseline is not None:
        columns += comparison_columns([rows.runs_of(name) for name in rows.names], runs.baseline)
    below: list[str] = []
    if selection.published:
        more, below = published_columns([rows.runs_of(name) for name in rows.names], runs.parent_dir)
        columns += more
    columns += [_if_different(rows.numbers("parameters", "parameters", with_commas), rows)]
    columns += [_if_different(rows.numbers("macs", "macs", millions), rows)]
    columns += [rows.numbers("epochs", "epochs", integer), rows.numbers("seconds", "seconds", integer)]
    if any(notes):
        columns.append(Column(header="note", values=notes))
    if selection.columns:
        columns = [columns[0], *(_named_column(name, columns, rows) for name in selection.columns)]
    below += [*_described(selection, rows), *incomparable(rows.with_results)]
    if runs.baseline is not None:
        below.append(f"Differences are on test, in percentage points, to {len(runs.baseline)} runs. {HOW_JUDGED}")
    return Table(columns, below)


def _described(selection: Selection, rows: Rows) -> list[str]:
    """Lines on the order of rows, and on those left out."""
    lines = []
    if selection.sort_by is not None and selection.sort_by.lstrip("-").startswith("test"):
        lines.append("Rows are in the order of a result on test: the first is not the best, but the luckiest.")
    if len(rows.names) < rows.num_all:
        lines.append(f"{len(rows.names)} of {rows.num_all} rows are shown.")
    return lines


def _named_column(name: str, columns: list[Column], rows: Rows) -> Column:
    """A column by its header, or by its name in `results`.

    Raises:
        UserError: There is no such column.
    """
    for column in columns:
        if column.header in (name, name.replace("_", " ")):
            return replace(column, is_printed=True)
    path = rows.runs.column(name)
    if path in param_columns(rows.runs.table) or not is_numeric(rows.runs.table[path]):
        return Column(
            header=name, values=[None if value is None else format_value(value) for value in rows.first(path)]
        )
    number_format = percent if path.endswith(RATES) else four_decimals
    return rows.numbers(name, path, number_format, spread=rows.by_seed)


# Columns ------------------------------------------------------------------------------------------------------------


def _params_columns(rows: Rows) -> list[Column]:
    """The parameters that differ, each under its leaf name if that is unique, or else under its dotted path.

    A value that only some rows have counts as a difference if it is in a params.json; the default of an option that
    other rows do not have does not. The choices of a search come first; parameters that follow from them are not
    printed.
    """
    table = rows.runs.table
    paths = [path for path in param_columns(table) if not (rows.by_seed and path == "seed")]
    known = table[table[paths].notna().any(axis=1)]
    written = {path for run in known.index for path in rows.runs.written[run]}
    leaf_counts = Counter(_leaf(path) for path in paths)
    columns = []
    for path in paths:
        texts = known[path].map(format_value, na_action="ignore")
        if texts.nunique() > 1 or (texts.isna().any() and path in written):
            header = _leaf(path) if leaf_counts[_leaf(path)] == 1 else path
            values = [None if value is None else format_value(value) for value in rows.first(path)]
            column = Column(header=header, values=values)
            columns.append(column.hidden() if _follows_from_choices(path, known) else column)
    return columns


def _follows_from_choices(path: str, known: DataFrame) -> bool:
    """Whether there are choices, and runs with equal choices have equal values."""
    choices = [name for name in param_columns(known) if is_choice(name)]
    if not choices or path in choices or known[choices].isna().all(axis=1).any():
        return False
    values = known[path].map(format_value, na_action="ignore").fillna("")
    return bool((values.groupby([known[name] for name in choices], dropna=False).nunique() <= 1).all())


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _metrics_columns(rows: Rows) -> list[Column]:
    """Accuracies of the best and the last weights, then all other metrics of the best weights."""

    def column(header: str, split: str, weights: Weights, key: str) -> Column:
        number_format = percent if key.endswith(RATES) else four_decimals
        numbers = rows.numbers(header, f"{split}_{weights}_{key}", number_format, spread=rows.by_seed)
        return replace(numbers, best="highest") if number_format is percent else numbers

    columns = [
        column(f"{split} {weights}", split, weights, "accuracy")
        for split in SPLITS
        for weights in get_args(Weights)
        if f"{split}_{weights}_accuracy" in rows.runs.table
    ]
    for split in SPLITS:
        prefix = f"{split}_best_"
        keys = {name.removeprefix(prefix) for name in rows.runs.table.columns if name.startswith(prefix)}
        for key in sorted(keys.difference(NO_COLUMN), key=_metric_order):
            if rows.runs.table[f"{prefix}{key}"].notna().any():
                more = column(f"{split} {_heading(key)}", split, "best", key)
                columns.append(more.hidden() if key in NOT_PRINTED else more)
    return columns


def _metric_order(key: str) -> tuple[bool, bool, list[tuple[str, int]]]:
    """A sort key: the loss first, then early exits in their order, and the ensemble of them last."""
    return key != "loss", key == "ensemble_accuracy", natural_order(key)


def _heading(key: str) -> str:
    """The header of a metric: "exit 1" for exit_1_accuracy, as percents are accuracies."""
    return key.removesuffix("_accuracy").replace("_", " ")


def _if_different(column: Column, rows: Rows) -> Column:
    """A size or cost of the student: printed only if it is not the same for all runs."""
    return column if rows.runs.table[column.header].nunique() > 1 else column.hidden()
