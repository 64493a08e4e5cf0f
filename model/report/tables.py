"""One table of all runs below a folder: the parameters that differ, and the results.

Rows are sorted by the validation accuracy of the best weights. Rows without one (`"val_size": 0`, or the run has not
got that far) come last, in the order of their paths: no row is ever ranked by a test accuracy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.folder import Weights
from ..errors import UserError
from ..files import write_text
from ..registry import TABLE_FORMATS
from . import formats  # registers them
from .baseline import comparison_columns, read_baseline
from .collect import SPLITS, WEIGHTS, format_value, natural_order
from .runs import Runs
from .seeds import group_by_seed, is_choice, param_columns
from .table import Column, NumberFormat, Table, four_decimals, integer, millions, percent, plain, whole, with_commas

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.api.typing import DataFrameGroupBy

NOT_PRINTED = ("loss", "top5_accuracy")  # metrics that every run has: the printed table would be too wide
NO_COLUMN = ("accuracy", "epoch", "num_samples")  # keys of a metrics file without a column of that name
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


def write_results(parent_dir: Path, *, group_by_seed: bool = False, baseline: Path | None = None) -> str:
    """Write results.md and results.csv into the folder and return the Markdown table.

    The CSV file has unrounded values, accuracies in [0, 1], empty cells for missing values, standard deviations in
    columns of their own, and a few more columns than the Markdown table.

    Args:
        baseline: A folder with runs that differ in their seed only, with which each row is compared on test; rows are
            then grouped by seed, too.

    Raises:
        UserError: The folder does not exist or cannot be written to, there is no run in it, or none in the baseline's.
    """
    compared_with = None if baseline is None else read_baseline(baseline)
    by_seed = group_by_seed or compared_with is not None
    table = make_table(Runs.read(parent_dir), by_seed=by_seed, baseline=compared_with)
    try:
        for name in WRITTEN:
            text = render(table, name)
            write_text(parent_dir / f"results.{ENDINGS.get(name, name)}", text if text.endswith("\n") else f"{text}\n")
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write the results here ({error.strerror})") from None
    return render(table, "markdown")


def render(table: Table, format_name: str) -> str:
    """A table in one of the registered formats.

    Raises:
        OptionError: There is no such format.
    """
    text: str = TABLE_FORMATS.build(format_name, table)
    return text


def make_table(runs: Runs, *, by_seed: bool = False, baseline: DataFrame | None = None) -> Table:
    """The results of runs, a row a run, or a row for runs that differ in their seed only.

    Args:
        baseline: The runs that each row is compared with; see `comparison_columns`.
    """
    rows = Rows(runs, by_seed=by_seed)
    states = rows.first("state")
    notes = rows.notes()
    columns = [Column(header="path", values=rows.names), *_params_columns(rows)]
    if any(state not in ("finished", None) for state in states):
        columns.append(Column(header="state", values=states))
    if by_seed:
        columns.append(Column(header="n", values=rows.sizes, number_format=integer))
    columns += _metrics_columns(rows)
    if baseline is not None:
        columns += comparison_columns([rows.runs_of(name) for name in rows.names], baseline)
    columns += [_if_different(rows.numbers("parameters", "parameters", with_commas), rows)]
    columns += [_if_different(rows.numbers("macs", "macs", millions), rows)]
    columns += [rows.numbers("epochs", "epochs", integer), rows.numbers("seconds", "seconds", integer)]
    if any(notes):
        columns.append(Column(header="note", values=notes))
    return Table(columns)


class Rows:
    """The rows of a table in their order, each of one run or of several.

    Args:
        by_seed: Whether runs that differ in their seed only are one row.
    """

    def __init__(self, runs: Runs, *, by_seed: bool) -> None:
        self.runs, self.by_seed = runs, by_seed
        self._groups: DataFrameGroupBy[Any, Any] = (
            group_by_seed(runs.table) if by_seed else runs.table.groupby("path", sort=False)
        )
        val = self._groups["val_best_accuracy"].mean().to_dict()
        first = {str(name): min(group.index, key=natural_order) for name, group in self._groups}
        self.names = sorted(first, key=lambda name: (*_descending(val[name]), natural_order(first[name])))

    @property
    def sizes(self) -> list[int]:
        sizes = self._groups.size()
        return [int(sizes[name]) for name in self.names]

    def runs_of(self, name: str) -> DataFrame:
        """The runs of a row."""
        runs: DataFrame = self.runs.table.loc[self._groups.groups[name]]
        return runs

    def first(self, column: str) -> list[Any]:
        """The value of each row's first run, None where it has none."""
        values = self._groups[column].first()
        return [plain(values[name]) for name in self.names]

    def numbers(self, header: str, column: str, number_format: NumberFormat, *, spread: bool = False) -> Column:
        """A column of means over the runs of each row.

        Args:
            spread: Whether it also has their standard deviations.
        """
        groups, to_plain = self._groups[column], plain if number_format in (percent, four_decimals) else whole
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


def _descending(value: float) -> tuple[bool, float]:
    """A sort key: missing values last."""
    return math.isnan(value), -value


def _notes(runs: DataFrame) -> str | None:
    notes = list(dict.fromkeys(note for note in runs["notes"] if note))
    if len(runs) > 1 and "seed" in runs and runs["seed"].nunique(dropna=False) < len(runs):
        notes.append("several runs of one seed")
    return "; ".join(notes) or None


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
        number_format = percent if key.endswith("accuracy") else four_decimals
        return rows.numbers(header, f"{split}_{weights}_{key}", number_format, spread=rows.by_seed)

    columns = [column(f"{split} {weights}", split, weights, "accuracy") for split in SPLITS for weights in WEIGHTS]
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
