"""All that tables, figures and pages are made from: the runs below a folder, and the histories of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import parse_rows
from .dataframe import results

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Runs:
    """The runs below a folder.

    Args:
        table: As `results` returns them.
    """

    parent_dir: Path
    table: DataFrame

    @classmethod
    def read(cls, parent_dir: Path) -> Runs:
        """Read all runs in and below a folder.

        Raises:
            UserError: The folder does not exist, or there is no run in it.
        """
        return cls(parent_dir, results(parent_dir))

    @property
    def tested(self) -> DataFrame:
        """The runs that have been evaluated on test."""
        tested: DataFrame = self.table[self.table["test_best_accuracy"].notna()]
        return tested

    def history(self, path: str) -> list[dict[str, Any]]:
        """One object per epoch of a run; those before a damaged line of its file."""
        return parse_rows(self.parent_dir / path / "metrics.jsonl")[0]
