"""Early stopping: a run ends where a metric of its epochs has not improved for some of them (Prechelt, 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RunFailed, did_you_mean


@dataclass(kw_only=True)
class EarlyStopping:
    """Follows one value of the rows of metrics.jsonl.

    Args:
        metric: Its key.
        patience: Epochs without an improvement after which the run ends.
        min_improvement: A smaller one is none.
        best: The best value so far, and `best_epoch` its epoch, counted from 1.
    """

    metric: str
    is_maximized: bool
    patience: int
    min_improvement: float = 0.0
    best: float | None = None
    best_epoch: int = 0

    def update(self, row: Mapping[str, Any]) -> None:
        """Compare the values of one more epoch.

        Raises:
            RunFailed: The metric is not among them.
        """
        if self.metric not in row:
            known = ", ".join(row)
            raise RunFailed(f"early_stopping: no {self.metric}{did_you_mean(self.metric, row)} among {known}")
        gain = 0.0 if self.best is None else (row[self.metric] - self.best) * (1 if self.is_maximized else -1)
        if self.best is None or gain > self.min_improvement:
            self.best, self.best_epoch = row[self.metric], row["epoch"]

    def is_due(self, epoch: int) -> bool:
        """Whether the run ends after this epoch."""
        return self.best is not None and epoch - self.best_epoch >= self.patience

    def reason(self) -> str:
        return f"{self.metric} has not improved since epoch {self.best_epoch}, where it was {self.best:.6g}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]
