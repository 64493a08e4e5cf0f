"""One table of all runs below a folder: the parameters that differ, and the results.

Rows are sorted by the validation accuracy of the best weights. Rows without one (`"val_size": 0`, or the run has not
got that far) come last, in the order of their paths: no row is ever ranked by a test accuracy.
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

from ..config.dotted import NON_RESULT_KEYS
from ..config.folder import Weights
from ..errors import UserError
from ..files import write_text
from ..markdown import markdown_table
from .collect import SPLITS, WEIGHTS, RunRecord, collect_runs, format_value, natural_order, schema_position
from .statistics import compare, difference

MISSING = "-"
CSV_ONLY = ("loss", "top5_accuracy")  # every run has them, and the Markdown table would be too wide
NO_COLUMN = ("accuracy", "epoch", "num_samples")  # keys of a metrics file without a column of that name

Group = list[RunRecord]  # the runs of one row: one run, or runs that differ in their seed only


class Column(NamedTuple):
    """One column: its cells in the Markdown table (None: only in the CSV file), and in the CSV file."""

    header: str
    markdown: list[str] | None
    csv: Sequence[str | float | None]
    align: str = "left"


def results_table(parent_dir: Path, *, group_by_seed: bool = False, only: Collection[str] | None = None) -> str:
    """All runs in and below a folder as a Markdown table; accuracies in percent.

    Args:
        parent_dir: The folder of the runs.
        group_by_seed: One row for finished runs that differ in `seed` only: mean ± sample standard deviation.
        only: The paths of the runs to show; all if left out.

    Raises:
        UserError: The folder does not exist, or there is no run in it.
    """
    runs = [run for run in collect_runs(parent_dir) if only is None or run.path in only]
    return _to_markdown(_columns(runs, group_by_seed))


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
    columns = _columns(collect_runs(parent_dir), group_by_seed or baseline is not None, compared_with)
    table = _to_markdown(columns)
    try:
        write_text(parent_dir / "results.md", table + "\n")
        write_text(parent_dir / "results.csv", _to_csv(columns))
    except OSError as error:
        raise UserError(f"{parent_dir}: cannot write the results here ({error.strerror})") from None
    return table


def _to_markdown(columns: list[Column]) -> str:
    shown = [(column.header, column.markdown, column.align) for column in columns if column.markdown is not None]
    headers, cells, aligns = zip(*shown, strict=True)
    return markdown_table(headers, zip(*cells, strict=True), align=aligns)


def _to_csv(columns: list[Column]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.header for column in columns)
    writer.writerows(zip(*(column.csv for column in columns), strict=True))
    return text.getvalue()


def _columns(runs: list[RunRecord], group_by_seed: bool, baseline: Group | None = None) -> list[Column]:
    groups = sorted(_group_by_seed(runs) if group_by_seed else [[run] for run in runs], key=_sort_key)
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
    columns += _metrics_columns(groups, with_deviation=group_by_seed)
    if baseline is not None:
        columns += _comparison_columns(groups, baseline)
    columns += _cost_columns("parameters", [[run.parameters for run in group] for group in groups], _with_commas)
    columns += _cost_columns("macs", [[run.macs for run in group] for group in groups], _millions)
    columns += _number_columns("epochs", [[run.epochs for run in group] for group in groups], _integer)
    columns += _number_columns("seconds", [[run.seconds for run in group] for group in groups], _integer)
    if any(notes):
        columns.append(_text_column("note", notes))
    return columns


def _sort_key(group: Group) -> tuple[float, list[tuple[str, int]]]:
    values = [run.metrics["val", "best"].get("accuracy") for run in group]
    known = [value for value in values if value is not None]
    return -statistics.mean(known) if known else math.inf, natural_order(group[0].path)


# Seeds --------------------------------------------------------------------------------------------------------------


def _group_by_seed(runs: list[RunRecord]) -> list[Group]:
    """Group finished runs that differ in their seed only; every other run is a group of its own."""
    groups: dict[str, Group] = {}
    for run in runs:
        same = {
            path: format_value(value) for path, value in run.params.items() if path not in (*NON_RESULT_KEYS, "seed")
        }
        is_comparable = run.params and run.state in ("finished", None)
        key = json.dumps([run.state, same], sort_keys=True) if is_comparable else run.path
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _common_path(group: Group) -> str:
    """The path of a group: the common start and end of all paths, with a star between them."""
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


# The comparison with a baseline -------------------------------------------------------------------------------------


def read_baseline(folder: Path) -> Group:
    """The finished runs of a folder, which differ in their seed only.

    Raises:
        UserError: The folder does not exist, has no such runs, or several kinds of them.
    """
    groups = _group_by_seed([run for run in collect_runs(folder) if _test_accuracies([run])])
    if not groups:
        raise UserError(f"{folder}: no run in it has been evaluated on test")
    if len(groups) > 1:
        names = ", ".join(_common_path(group) for group in groups[:3])
        raise UserError(f"{folder}: {len(groups)} kinds of runs ({names}, ...): a baseline is one, with any seeds")
    return groups[0]


def _test_accuracies(group: Group) -> dict[int, float]:
    """Seed -> test accuracy of the best weights."""
    accuracies = {run.params.get("seed", 0): run.metrics["test", "best"].get("accuracy") for run in group}
    return {seed: accuracy for seed, accuracy in accuracies.items() if accuracy is not None}


def _comparison_columns(groups: list[Group], baseline: Group) -> list[Column]:
    """The difference of each group to the baseline on test, its interval, a verdict, and how many seeds it needs."""
    values, own = _test_accuracies(baseline), {id(group): _is_same(group, baseline) for group in groups}
    differences = [None if own[id(group)] else difference(_test_accuracies(group), values) for group in groups]
    comparisons = compare(differences)
    texts: list[list[str | None]] = [[], [], []]
    for group, comparison in zip(groups, comparisons, strict=True):
        found, interval = comparison.difference, comparison.interval
        verdict = "baseline" if own[id(group)] else comparison.verdict
        seeds = None if found is None or interval is None else found.seeds_needed()
        shown = None if found is None or interval is None else _points(found.mean, *interval)
        for column, text in zip(texts, (shown, verdict, None if seeds is None else str(seeds)), strict=True):
            column.append(text)
    means = [None if each is None else each.mean for each in differences]
    headers = ("difference [95 %]", "verdict", "seeds needed")
    columns = [_text_column(header, column) for header, column in zip(headers, texts, strict=True)]
    return [columns[0]._replace(csv=means), *columns[1:]]


def _is_same(group: Group, other: Group) -> bool:
    return {_identity(run) for run in group} == {_identity(run) for run in other}


def _identity(run: RunRecord) -> str:
    return json.dumps({path: format_value(value) for path, value in run.params.items() if path not in NON_RESULT_KEYS})


def _points(mean: float, low: float, high: float) -> str:
    """Percentage points with their sign."""
    return f"{100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


# Columns ------------------------------------------------------------------------------------------------------------


def _text_column(header: str, values: Sequence[str | None]) -> Column:
    return Column(header, [MISSING if value is None else value for value in values], values)


def _params_columns(runs: list[RunRecord], groups: list[Group], hidden: Sequence[str]) -> list[Column]:
    """The parameters that differ, each under its leaf name if that is unique, or else under its dotted path.

    A value that only some rows have counts as a difference if it is in a params.json; the default of an option that
    other rows do not have does not. The choices of a search come first; parameters that follow from them are in the CSV
    file only.
    """
    known = [run for run in runs if run.params]
    paths = dict.fromkeys(path for run in known for path in run.params if path not in hidden)
    leaf_counts = Counter(_leaf(path) for path in paths)
    columns = []
    for path in sorted(paths, key=schema_position):
        texts = {format_value(run.params[path]) for run in known if path in run.params}
        is_missing = any(path not in run.params for run in known)
        is_written = any(path in run.written for run in known)
        if len(texts) > 1 or (is_missing and is_written):
            header = _leaf(path) if leaf_counts[_leaf(path)] == 1 else path
            values = [format_value(group[0].params[path]) if path in group[0].params else None for group in groups]
            column = _text_column(header, values)
            columns.append(column._replace(markdown=None) if _follows_from_choices(path, known) else column)
    return columns


def _follows_from_choices(path: str, runs: list[RunRecord]) -> bool:
    """Whether there are choices, and runs with equal choices have equal values."""
    values: dict[tuple[str, ...], str | None] = {}
    for run in runs:
        choices = tuple(str(value) for key, value in run.params.items() if _is_choice(key))
        value = format_value(run.params[path]) if path in run.params else None
        if not choices or values.setdefault(choices, value) != value:
            return False
    return not _is_choice(path)


def _is_choice(path: str) -> bool:
    return schema_position(path) < 0


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _metrics_columns(groups: list[Group], *, with_deviation: bool) -> list[Column]:
    """Accuracies of the best and the last weights, then all other metrics of the best weights."""

    def column(header: str, split: str, weights: Weights, key: str) -> list[Column]:
        values = [[run.metrics[split, weights].get(key) for run in group] for group in groups]
        return _number_columns(header, values, _percent if key.endswith("accuracy") else _decimals, with_deviation)

    columns = []
    for split in SPLITS:
        for weights in WEIGHTS:
            columns += column(f"{split} {weights}", split, weights, "accuracy")
    for split in SPLITS:
        keys = {key for group in groups for run in group for key in run.metrics[split, "best"]}
        for key in sorted(keys.difference(NO_COLUMN), key=_metric_order):
            more = column(f"{split} {_heading(key)}", split, "best", key)
            columns += [part._replace(markdown=None) for part in more] if key in CSV_ONLY else more
    return columns


def _metric_order(key: str) -> tuple[bool, bool, list[tuple[str, int]]]:
    """A sort key: the loss first, then early exits in their order, and the ensemble of them last."""
    return key != "loss", key == "ensemble_accuracy", natural_order(key)


def _heading(key: str) -> str:
    """The header of a metric: "exit 1" for exit_1_accuracy, as percents are accuracies."""
    return key.removesuffix("_accuracy").replace("_", " ")


def _cost_columns(header: str, values: list[list[float | None]], number_format: Callable[[float], str]) -> list[Column]:
    """Size or cost of the student; in the CSV file only if it is the same for all runs."""
    differ = len({value for group in values for value in group if value is not None}) > 1
    columns = _number_columns(header, values, number_format)
    return columns if differ else [column._replace(markdown=None) for column in columns]


def _number_columns(
    header: str,
    values: list[list[float | None]],
    number_format: Callable[[float], str],
    with_deviation: bool = False,
) -> list[Column]:
    """A column of the means of groups; `with_deviation` adds a column of standard deviations to the CSV file."""
    markdown, means, deviations = [], [], []
    for group in values:
        numbers = [value for value in group if value is not None]
        mean = statistics.mean(numbers) if numbers else None
        deviation = statistics.stdev(numbers) if with_deviation and len(numbers) > 1 else None
        cell = MISSING if mean is None else number_format(mean)
        if deviation is not None:
            cell += f" ± {number_format(deviation)}"
        if numbers and len(numbers) < len(group):
            cell += f" (n={len(numbers)})"
        markdown.append(cell)
        means.append(mean)
        deviations.append(deviation)
    columns = [Column(header, markdown, means, "right")]
    return [*columns, Column(f"{header} std", None, deviations)] if with_deviation else columns


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _decimals(value: float) -> str:
    return f"{value:.4f}"


def _integer(value: float) -> str:
    return f"{value:.0f}"


def _with_commas(value: float) -> str:
    return f"{value:,.0f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f} M"
