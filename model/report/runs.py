"""The runs below a folder, from which all tables, figures and pages are made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import parse_rows
from .collect import collect_runs
from .dataframe import to_dataframe

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Runs:
    """The runs below a folder.

    Args:
        table: As `results` returns them.
        written: Run -> the parameters that are in its params.json; the others are defaults.
    """

    parent_dir: Path
    table: DataFrame
    written: dict[str, frozenset[str]]

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
        return Runs(self.parent_dir, self.table[self.table.index.isin(list(paths))], self.written)

    @property
    def tested(self) -> DataFrame:
        """The runs that have been evaluated on test."""
        tested: DataFrame = self.table[self.table["test_best_accuracy"].notna()]
        return tested

    def history(self, path: str) -> list[dict[str, Any]]:
        """One object per epoch of a run; those before a damaged line of its file."""
        return parse_rows(self.parent_dir / path / "metrics.jsonl")[0]
