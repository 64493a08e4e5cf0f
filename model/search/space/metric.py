"""What a search optimizes: a column of metrics.jsonl, or a cost that the run writes into run.json."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import field_validator

from ...config.params import Strict, is_maximized

COST_METRICS = ("parameters", "macs", "latency_ms", "seconds", "peak_memory_bytes", "images_per_second")  # of run.json


class Metric(Strict):
    """A value to maximize or minimize.

    Args:
        name: A key of the rows of metrics.jsonl, or one of COST_METRICS.
        goal: By default accuracies, macro recall and macro F1, and images per second are maximized, and all other
            metrics minimized.
    """

    name: str = "val_accuracy"
    goal: Literal["maximize", "minimize"] | None = None

    @field_validator("name")
    @classmethod
    def _check_split(cls, name: str) -> str:
        if name.startswith("test"):
            raise ValueError(f'a search must not use the test split, only val, got "{name}"')
        return name

    @property
    def is_maximized(self) -> bool:
        if self.goal is not None:
            return self.goal == "maximize"
        return is_maximized(self.name)

    @property
    def is_cost(self) -> bool:
        """Whether it is one number of the whole run, with no value per epoch."""
        return self.name in COST_METRICS

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None where there are none."""
        return max(values, default=None) if self.is_maximized else min(values, default=None)
