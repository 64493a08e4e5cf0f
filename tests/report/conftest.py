"""Experiment folders as train.py leaves them, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest


class MakeRun(Protocol):
    """Write one experiment folder below the test's own and return its path."""

    def __call__(
        self,
        name: str,
        *,
        params: Any = None,
        resolved: Any = None,
        run: Any = None,
        val: tuple[float, float] | None = None,
        test: tuple[float, float] | None = None,
        more: dict[str, Any] | None = None,
    ) -> Path: ...


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str,
        *,
        params: Any = None,
        resolved: Any = None,
        run: Any = None,
        val: tuple[float, float] | None = None,
        test: tuple[float, float] | None = None,
        more: dict[str, Any] | None = None,
    ) -> Path:
        """`val` and `test` are the accuracies of the best and the last weights; `more` goes into val best."""
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in (("params", params), ("params_resolved", resolved), ("run", run)):
            if content is not None:
                write(folder / f"{file}.json", content)
        for split, accuracies in (("val", val), ("test", test)):
            for weights, accuracy in zip(("best", "last"), accuracies or (), strict=False):
                metrics = {"accuracy": accuracy, "epoch": 3, "num_samples": 10_000}
                if more and (split, weights) == ("val", "best"):
                    metrics |= more
                write(folder / f"metrics_{split}_{weights}_weights.json", metrics)
        return folder

    return make


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def cnn() -> dict[str, Any]:
    """A params.json of the student alone."""
    return {
        "dataset": {"name": "cifar10"},
        "student": {"name": "cnn", "num_channels": 8},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "num_epochs": 3,
    }


@pytest.fixture
def finished() -> dict[str, Any]:
    """A run.json of a run that came to its end."""
    return {"state": "finished", "epoch": 3, "seconds": 12.4}
