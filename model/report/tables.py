"""One table of all runs below a folder: what differs between them, and what came out.

Rows are sorted by the validation accuracy of the best weights. Rows without one (`"val_size": 0`, or not far enough)
come last, in the order of their paths: no row is ever ranked by a test accuracy.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from ..config.dotted import NON_RESULT_KEYS
from ..config.folder import Weights
from ..config.params import Params
from ..errors import UserError
from ..files import write_text
from .collect import SPLITS, WEIGHTS, RunRecord, as_text, collect_runs, natural_order

MISSING = "-"
IN_CSV_ONLY = ("loss", "top5_accuracy")  # every run has them, and with them no table fits a screen
NOT_A_RESULT = ("accuracy", "epoch", "num_samples")  # keys of a metrics file that get no column of their own

Group = list[RunRecord]  # the runs of one row: one, or those that differ in their seed only


class Column(NamedTuple):
    """One column: its cells in the Markdown table (None: in the CSV file only), and in the CSV file."""

    header: str
    markdown: list[str] | None
    csv: Sequence[str | float | None]
    align: str = "left"


def results_table(parent_dir: Path, *, group_by_seed: bool = False, only: Collection[str] | None = None) -> str:
    """All runs in and below a folder as a Markdown table; accuracies in percent.

    Args:
        parent_dir: Where to look for runs.
        group_by_seed: Make one row of the finished runs that differ in `seed` only: mean ± sample standard deviation.
        only: The paths of the runs that are shown, where not all are.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    runs = [run for run in collect_runs(parent_dir) if only is None or run.path in only]
    return _markdown(_columns(runs, group_by_seed))


def write_results(parent_dir: Path, *, group_by_seed: bool = False) -> str:
    """Write results.md and results.csv into the folder and return the Markdown table.

    The CSV file has the same columns with unrounded values, accuracies in [0, 1] and empty cells for what is missing;
    a standard deviation has a column of its own.

    Raises:
        UserError: There is no such folder, no run in it, or it cannot be written to.
    """
    columns = _columns(collect_runs(parent_dir), group_by_seed)
    table = _markdown(columns)
    try:
        write_text(parent_dir / "results.md", table + "\n")
        write_text(parent_dir / "results.csv", _csv(columns))
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write the results here ({error.strerror})") from None
    return table


def _markdown(columns: list[Column]) -> str:
    shown = [(column.header, column.markdown, column.align) for column in columns if column.markdown is not None]
    headers, cells, aligns = zip(*shown, strict=True)
    rows = [[_escaped(cell) for cell in row] for row in zip(*cells, strict=True)]
    table: str = tabulate(
        rows, headers=[_escaped(header) for header in headers], tablefmt="pipe", colalign=aligns, disable_numparse=True
    )
    return table


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _csv(columns: list[Column]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.header for column in columns)
    writer.writerows(zip(*(column.csv for column in columns), strict=True))
    return text.getvalue()


def _columns(runs: list[RunRecord], group_by_seed: bool) -> list[Column]:
    groups = sorted(_by_seed(runs) if group_by_seed else [[run] for run in runs], key=_rank)
    hidden = (*NON_RESULT_KEYS, "seed") if group_by_seed else NON_RESULT_KEYS
    states = [group[0].state for group in groups]
    notes = ["; ".join(_notes(group)) or None for group in groups]

    columns = [_text_column("path", [_common_path(group) for group in groups])]
    columns += _params_columns(runs, groups, hidden)
    if any(state not in ("finished", None) for state in states):
        columns.append(_text_column("state", states))
    if group_by_seed:
        counts = [len(group) for group in groups]
        columns.append(Column("n", [str(count) for count in counts], counts, "right"))
    columns += _metrics_columns(groups, with_spread=group_by_seed)
    columns += _cost_columns("parameters", [[run.parameters for run in group] for group in groups], _with_commas)
    columns += _cost_columns("macs", [[run.macs for run in group] for group in groups], _millions)
    columns += _number_columns("epochs", [[run.epochs for run in group] for group in groups], _whole)
    columns += _number_columns("seconds", [[run.seconds for run in group] for group in groups], _whole)
    if any(notes):
        columns.append(_text_column("note", notes))
    return columns


def _rank(group: Group) -> tuple[float, list[tuple[str, int]]]:
    values = [run.metrics["val", "best"].get("accuracy") for run in group]
    known = [value for value in values if value is not None]
    return -statistics.mean(known) if known else math.inf, natural_order(group[0].path)


# Seeds --------------------------------------------------------------------------------------------------------------


def _by_seed(runs: list[RunRecord]) -> list[Group]:
    """Put finished runs together that differ in their seed only; every other run stays alone."""
    groups: dict[str, Group] = {}
    for run in runs:
        same = {path: as_text(value) for path, value in run.params.items() if path not in (*NON_RESULT_KEYS, "seed")}
        is_comparable = run.params and run.state in ("finished", None)
        key = json.dumps([run.state, same], sort_keys=True) if is_comparable else run.path
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _common_path(group: Group) -> str:
    """The path of a group: what all paths begin and end with, and a star for what lies between."""
    paths = [run.path for run in group]
    start = _common_start(paths)
    end = _common_start([path[len(start) :][::-1] for path in paths])[::-1]
    if len(paths) == 1 or not start + end:
        return ", ".join(paths)
    return f"{start}*{end}"


def _common_start(texts: list[str]) -> str:
    start = min(texts, key=len)
    while not all(text.startswith(start) for text in texts):
        start = start[:-1]
    return start


def _notes(group: Group) -> list[str]:
    notes = list(dict.fromkeys(note for run in group for note in run.notes))
    if len({run.params.get("seed") for run in group}) < len(group):
        notes.append("several runs of one seed")
    return notes


# Columns ------------------------------------------------------------------------------------------------------------


def _text_column(header: str, values: Sequence[str | None]) -> Column:
    return Column(header, [MISSING if value is None else value for value in values], values)


def _params_columns(runs: list[RunRecord], groups: list[Group], hidden: Sequence[str]) -> list[Column]:
    """The parameters that differ, under the shortest name that says which: the leaf's, where no other leaf has it.

    A value that only some rows have counts as a difference if a params.json names it. The defaults of an option that
    the other rows do not have tell nothing more than that. What follows from the names of a search's choices, which
    come first, is in the CSV file only.
    """
    known = [run for run in runs if run.params]
    paths = dict.fromkeys(path for run in known for path in run.params if path not in hidden)
    times = Counter(_leaf(path) for path in paths)
    columns = []
    for path in sorted(paths, key=_place_in_schema):
        texts = {as_text(run.params[path]) for run in known if path in run.params}
        is_lacking = any(path not in run.params for run in known)
        is_written = any(path in run.written for run in known)
        if len(texts) > 1 or (is_lacking and is_written):
            header = _leaf(path) if times[_leaf(path)] == 1 else path
            values = [as_text(group[0].params[path]) if path in group[0].params else None for group in groups]
            column = _text_column(header, values)
            columns.append(column._replace(markdown=None) if _follows_from_choices(path, known) else column)
    return columns


def _follows_from_choices(path: str, runs: list[RunRecord]) -> bool:
    """Whether runs of equal choices have equal values, and there are choices at all."""
    values: dict[tuple[str, ...], str | None] = {}
    for run in runs:
        choices = tuple(str(value) for key, value in run.params.items() if _is_choice(key))
        value = as_text(run.params[path]) if path in run.params else None
        if not choices or values.setdefault(choices, value) != value:
            return False
    return not _is_choice(path)


def _is_choice(path: str) -> bool:
    return _place_in_schema(path) < 0


def _place_in_schema(path: str) -> int:
    top, keys = path.partition(".")[0], list(Params.model_fields)
    return keys.index(top) if top in keys else -1  # what a search has a name of its own for


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _metrics_columns(groups: list[Group], *, with_spread: bool) -> list[Column]:
    """Accuracy of the best and the last weights; then whatever else was measured of the best weights."""

    def column(header: str, split: str, weights: Weights, key: str) -> list[Column]:
        values = [[run.metrics[split, weights].get(key) for run in group] for group in groups]
        return _number_columns(header, values, _percent if key.endswith("accuracy") else _decimals, with_spread)

    columns = []
    for split in SPLITS:
        for weights in WEIGHTS:
            columns += column(f"{split} {weights}", split, weights, "accuracy")
    for split in SPLITS:
        found = {key for group in groups for run in group for key in run.metrics[split, "best"]}
        for key in sorted(found.difference(NOT_A_RESULT), key=_place_in_table):
            more = column(f"{split} {_heading(key)}", split, "best", key)
            columns += [part._replace(markdown=None) for part in more] if key in IN_CSV_ONLY else more
    return columns


def _place_in_table(key: str) -> tuple[bool, bool, list[tuple[str, int]]]:
    """The loss first; the exits of a network one after another, and what they say together behind them."""
    return key != "loss", key == "ensemble_accuracy", natural_order(key)


def _heading(key: str) -> str:
    """What a metric is called in a table, where percent say that it is an accuracy: exit_1_accuracy is "exit 1"."""
    return key.removesuffix("_accuracy").replace("_", " ")


def _cost_columns(header: str, values: list[list[float | None]], written: Callable[[float], str]) -> list[Column]:
    """What the networks of the runs cost; where it is the same for all, it is in the CSV file only."""
    differ = len({value for group in values for value in group if value is not None}) > 1
    columns = _number_columns(header, values, written)
    return columns if differ else [column._replace(markdown=None) for column in columns]


def _number_columns(
    header: str,
    values: list[list[float | None]],
    written: Callable[[float], str],
    with_spread: bool = False,
) -> list[Column]:
    """A column of means over each group's runs; `with_spread`, the standard deviations follow in the CSV file."""
    markdown, means, deviations = [], [], []
    for group in values:
        numbers = [value for value in group if value is not None]
        mean = statistics.mean(numbers) if numbers else None
        deviation = statistics.stdev(numbers) if with_spread and len(numbers) > 1 else None
        cell = MISSING if mean is None else written(mean)
        if deviation is not None:
            cell += f" ± {written(deviation)}"
        if numbers and len(numbers) < len(group):
            cell += f" (n={len(numbers)})"
        markdown.append(cell)
        means.append(mean)
        deviations.append(deviation)
    columns = [Column(header, markdown, means, "right")]
    return [*columns, Column(f"{header} std", None, deviations)] if with_spread else columns


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _decimals(value: float) -> str:
    return f"{value:.4f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _with_commas(value: float) -> str:
    return f"{value:,.0f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f} M"
