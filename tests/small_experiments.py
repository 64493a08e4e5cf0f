"""Small copies of the shipped experiments, and the commands that a user types, run in this process."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import search_hyperparams
import synthesize_results
import train
from model.cli import run_script
from model.config.folder import Folder
from model.data.cifar10_mini import unpack
from model.files import read_json
from model.home import ROOT
from model.search.executors.base import Job, JobEnd, JobHandle

if TYPE_CHECKING:
    from tests.conftest import Call

SMALLER_NETWORKS: dict[str, dict[str, Any]] = {
    "cnn": {"num_channels": 4},
    "resnet8x4": {"name": "resnet8"},
    "resnet18": {"name": "resnet8"},
    "resnet32x4": {"name": "resnet14"},
    "resnet50": {"name": "resnet8"},
    "wrn_40_2": {"name": "wrn_16_1"},
    "wrn": {"depth": 16, "width": 1.0},
}
SHORT_TRAINING = {"batch_size": 10, "num_epochs": 1, "precision": "float32"}


@dataclass(frozen=True)
class SmallExperiments:
    """Makes small copies of the shipped experiments.

    Args:
        root: The folder of the copies.
        images: A .npz file for the data set `arrays`: 40 training and 40 test images of cifar10_mini.
    """

    root: Path
    images: Path

    @property
    def dataset(self) -> dict[str, Any]:
        return {"name": "arrays", "path": str(self.images), "val_size": 10}

    def copy(self, name: str, **changes: Any) -> Folder:
        """A small copy of a shipped experiment and of those that it names as teacher or init."""
        folder = Folder(self.root / name.replace("/", "_"))
        params = read_json(ROOT / "experiments" / name / "params.json")
        options = {key: value for key, value in params["dataset"].items() if key in ("val_size", "augment", "cutout")}
        student = params["student"] | SMALLER_NETWORKS.get(params["student"]["name"], {})
        params |= SHORT_TRAINING | {"dataset": self.dataset | options, "student": student}
        for key in ("teacher", "init"):
            if key in params:
                params[key] = str(self.copy(params[key].removeprefix("experiments/")).path)
        return write(folder, params | changes)

    def copy_search(self, name: str, *counts: int) -> Folder:
        """A small copy of a shipped search, with the first `counts[i]` values of its i-th parameter."""
        search = read_json(ROOT / "experiments" / name / "search.json")
        for parameter, count in zip(search["parameters"].values(), counts, strict=True):
            parameter["values"] = parameter["values"][:count]
        folder = self.copy(name)
        return write(folder, read_json(folder.params), search)


def write(folder: Folder, params: dict[str, Any], search: dict[str, Any] | None = None) -> Folder:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.params.write_text(json.dumps(params))
    if search is not None:
        (folder.path / "search.json").write_text(json.dumps(search))
    return folder


def make_small_experiments(root: Path) -> SmallExperiments:
    """Small experiments in an empty folder."""
    mini = unpack()

    def first_of_each_class(labels: np.ndarray[Any, Any], per_class: int) -> np.ndarray[Any, Any]:
        return np.concatenate([np.flatnonzero(labels == number)[:per_class] for number in np.unique(labels)])

    train_rows, test_rows = first_of_each_class(mini.train_labels, 4), first_of_each_class(mini.test_labels, 4)
    np.savez(
        root / "few.npz",
        train_images=mini.train_images[train_rows],
        train_labels=mini.train_labels[train_rows],
        test_images=mini.test_images[test_rows],
        test_labels=mini.test_labels[test_rows],
    )
    return SmallExperiments(root, root / "few.npz")


class InProcessExecutor:
    """Calls train.py's main instead of starting a process, which would take seconds to import torch."""

    def __init__(self) -> None:
        self._statuses: dict[JobHandle, int] = {}

    @classmethod
    def for_runs(cls, num_runs: int, **_: Any) -> InProcessExecutor:
        return cls()

    OPTIONS = ()
    max_jobs = threads_per_job = 1

    def describe(self) -> str:
        return "one at a time"

    def can_submit(self) -> bool:
        return not self._statuses

    def submit(self, job: Job) -> JobHandle:
        with pytest.MonkeyPatch.context() as patch, job.log.open("a") as output:
            patch.setattr(sys, "argv", [*job.argv()[1:]])
            with redirect_stdout(output), redirect_stderr(output), pytest.raises(SystemExit) as exit_info:
                run_script(train.main)
        handle = JobHandle(str(job.folder))
        self._statuses[handle] = int(exit_info.value.code or 0)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None

    def poll(self, handle: JobHandle) -> JobEnd | None:
        return JobEnd(self._statuses.pop(handle))

    def stop(self, handle: JobHandle) -> None:
        raise AssertionError("the run has ended")

    kill = stop


def train_folder(folder: Folder, call: Call) -> Folder:
    """Run train.py on a folder, which does nothing to a finished one; returns the folder."""
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 0, result.err
    return folder


def run_search(folder: Folder, call: Call) -> str:
    """Run search_hyperparams.py; returns the first table that it prints."""
    result = call(search_hyperparams.main, "--parent_dir", folder.path)
    assert result.status == 0, result.err
    return result.out.strip().split("\n\n")[0]


def results_table(path: Path, call: Call) -> str:
    """Run synthesize_results.py; returns the table that it writes."""
    assert call(synthesize_results.main, "--parent_dir", path).status == 0
    return (path / "results.md").read_text(encoding="utf-8").rstrip("\n")


def accuracy(folder: Folder, key: str = "accuracy") -> float:
    """A metric of the best weights on the test split."""
    return float(read_json(folder.metrics("test", "best"))[key])
