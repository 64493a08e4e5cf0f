"""The first lines of the page: what there is, what is best, and what has been shown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from ..runs import Runs
from ..seeds import group_by_seed
from ..statistics import Verdict
from ..table import Table


def summary(runs: Runs, groups: Table) -> list[str]:
    """Sentences for the head of the page.

    Args:
        groups: The table with a row for runs that differ in their seed only, with verdicts if there is a baseline.
    """
    lines = [_counts(runs), *_best(runs)]
    verdicts = [column.values for column in groups.columns if column.header == "verdict"]
    return [*lines, *(_verdicts(values) for values in verdicts)]


def _counts(runs: Runs) -> str:
    states = Counter(runs.table["state"].fillna("without run.json"))
    num_groups = group_by_seed(runs.table).ngroups
    kinds = f" of {num_groups} kinds that differ in more than their seed" if num_groups < len(runs.table) else ""
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return f"{_number(len(runs.table), 'run')}{kinds}: {counts}."


def _best(runs: Runs) -> list[str]:
    """The best group on val, with its accuracy on test."""
    table = runs.tested.dropna(subset=["val_best_accuracy"])
    if table.empty:
        return ["No run has been evaluated on both val and test."]
    groups = group_by_seed(table)[["val_best_accuracy", "test_best_accuracy"]]
    name = groups.mean()["val_best_accuracy"].idxmax()
    group = 100 * groups.get_group(name)
    val, test = (_spread(group[f"{split}_best_accuracy"]) for split in ("val", "test"))
    return [f"Best on val: {name}, with {val} % on val and {test} % on test ({_number(len(group), 'seed')})."]


def _spread(percents: Iterable[float]) -> str:
    values = list(percents)
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _verdicts(verdicts: Iterable[Verdict | str | None]) -> str:
    counts = Counter(verdict for verdict in verdicts if verdict not in ("baseline", None))
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"Compared with the baseline on test: {parts or 'nothing'}."


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
