"""The runs below a folder, from which all tables, figures and pages are made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.references import find_folder
from ..errors import OptionError, UserError, did_you_mean
from ..files import is_number, parse_rows, siblings
from .collect import collect_runs
from .dataframe import to_dataframe
from .evaluations import read_evaluation
from .filter import matching
from .seeds import group_by_seed, group_names, param_columns, without_seed
from .statistics import Difference, difference

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Runs:
    """The runs below a folder.

    Args:
        table: As `results` returns them.
        written: Run -> the parameters that are in its params.json; the others are defaults.
        baseline: The runs that others are compared with, which differ in their seed only.
        baseline_dir: The folder of these.
    """

    parent_dir: Path
    table: DataFrame
    written: dict[str, frozenset[str]]
    baseline: DataFrame | None = None
    baseline_dir: Path | None = None

    @classmethod
    def read(cls, parent_dir: Path) -> Runs:
        """Read all runs in and below a folder.

        Raises:
            UserError: The folder does not exist, or there is no run in it.
        """
        records = collect_runs(parent_dir)
        return cls(parent_dir, to_dataframe(records), {record.path: record.written for record in records})

    def only(self, paths: Collection[str]) -> Runs:
        """Some of the runs."""
        return replace(self, table=self.table[self.table.index.isin(list(paths))])

    def where(self, expression: str) -> Runs:
        """The runs for which an expression over columns is true; see filter.py.

        Raises:
            UserError: The expression cannot be read or names a column that does not exist, or no run is left.
        """
        paths = matching(self.table, expression, self.column)
        if not paths:
            raise UserError(f"--filter: no run under {self.parent_dir} matches {expression!r}")
        return self.only(paths)

    def compared_with(self, folder: Path) -> Runs:
        """The same runs, with the runs of a folder as their baseline. A run of several seeds stands for all of them.

        Raises:
            UserError: The folder does not exist, or has no runs that have been evaluated on test, or several kinds.
        """
        other, seeds = Runs.read(folder).tested, _seeds_beside(folder)
        if other.index.to_list() == ["."] and len(seeds) > 1:
            folder = folder.resolve().parent
            beside = Runs.read(folder).only(seeds).tested
            groups = group_names(beside)
            other = beside[groups == groups[seeds[0]]]
        if other.empty:
            raise UserError(f"{folder}: no run in it has been evaluated on test")
        refuse_several_kinds(other, folder)
        return replace(self, baseline=other, baseline_dir=folder)

    def column(self, name: str) -> str:
        """The column that a user names: by its dotted path or, where that is unique, by its last part.

        Raises:
            UserError: There is no such column, or there are several.
        """
        return self._find(name, list(self.table.columns), "column")

    def param(self, name: str) -> str:
        """The same of the columns that are parameters."""
        return self._find(name, param_columns(self.table), "parameter")

    def _find(self, name: str, known: Sequence[str], kind: str) -> str:
        if name in known:
            return name
        matches = [path for path in known if path.endswith(f".{name}")]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(f"{self.parent_dir}: {name} is ambiguous, write one of: {', '.join(matches)}")
        leaves = {path.rpartition(".")[2] for path in known}
        hint = did_you_mean(name, {*leaves, *known})
        raise UserError(f"{self.parent_dir}: no run has a {kind} named {name}{hint}")

    @property
    def tested(self) -> DataFrame:
        """The runs that have been evaluated on test."""
        tested: DataFrame = self.table[self.table["test_best_accuracy"].notna()]
        return tested

    def history(self, path: str) -> list[dict[str, Any]]:
        """One object per epoch of a run; those before a damaged line of its file."""
        return parse_rows(self.parent_dir / path / "metrics.jsonl")[0]

    def val_curve(self, path: str) -> dict[int, float]:
        """Epoch -> accuracy on val of a run in percent, of the epochs that have one."""
        return {
            row["epoch"]: 100 * row["val_accuracy"]
            for row in self.history(path)
            if is_number(row.get("val_accuracy")) and is_number(row.get("epoch"))
        }

    def evaluated(self) -> list[tuple[str, dict[str, Any]]]:
        """The runs on which evaluate.py has been run, with what it wrote, the best on val first."""
        table = self.table.sort_values("val_best_accuracy", ascending=False, na_position="last", kind="stable")
        found = ((str(path), read_evaluation(self.parent_dir / path)) for path in table.index)
        return [(path, evaluation) for path, evaluation in found if evaluation is not None]

    def evaluation_of_baseline(self) -> dict[str, Any] | None:
        """That of the baseline's first run that has one."""
        if self.baseline is None or self.baseline_dir is None:
            return None
        found = (read_evaluation(self.baseline_dir / path) for path in self.baseline.index)
        return next((evaluation for evaluation in found if evaluation is not None), None)

    def evaluation_of_teacher(self, path: str) -> dict[str, Any] | None:
        """That of the folder that teaches a run, where it is one."""
        name = self.table.at[path, "teacher"] if "teacher" in self.table else None
        if not isinstance(name, str):
            return None
        try:
            return read_evaluation(find_folder(name, self.parent_dir / path))
        except OptionError:  # several, or it is gone
            return None


def refuse_several_kinds(runs: DataFrame, folder: Path) -> None:
    """Runs that stand for one thing differ in their seed only.

    Raises:
        UserError: They differ in more.
    """
    names = [str(name) for name, _ in group_by_seed(runs)]
    if len(names) > 1:
        raise UserError(f"{folder}: holds {len(names)} kinds of runs ({', '.join(names[:3])}, ...): name one of them")


def _seeds_beside(folder: Path) -> list[str]:
    """The name of a folder, and of those beside it that a search has made for other seeds."""
    path = folder.resolve()
    names = siblings(path, lambda other: without_seed(other.name) == without_seed(path.name))
    return [path.name, *sorted(names - {path.name})]


def compare_on(split: str, runs: DataFrame, baseline: DataFrame) -> Difference | None:
    """The difference of the accuracies of two sets of runs; None where one of them has too few seeds."""
    sizes = [each[name] for each in (runs, baseline) if (name := f"{split}_best_num_samples") in each]
    num_samples = [float(size) for column in sizes for size in column.dropna()]
    resolution = 1 / min(num_samples) if num_samples else 0.0
    return difference(accuracies(runs, split), accuracies(baseline, split), resolution)


def accuracies(runs: DataFrame, split: str) -> dict[int, float]:
    """Seed -> accuracy of the best weights, of the runs that have one."""
    known = runs[runs[f"{split}_best_accuracy"].notna()]
    seeds = known["seed"].fillna(0) if "seed" in known else [0] * len(known)
    return {int(seed): float(value) for seed, value in zip(seeds, known[f"{split}_best_accuracy"], strict=True)}
