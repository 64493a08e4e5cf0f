"""Small copies of the shipped folders, and the commands that a user types, called in this process."""

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

SMALLER: dict[str, dict[str, Any]] = {
    "cnn": {"num_channels": 4},
    "resnet8x4": {"name": "resnet8"},
    "resnet18": {"name": "resnet8"},
    "resnet32x4": {"name": "resnet14"},
    "resnet50": {"name": "resnet8"},
    "wrn_40_2": {"name": "wrn_16_1"},
    "wrn": {"depth": 16, "width": 1.0},
}
FEW = {"batch_size": 10, "num_epochs": 1, "precision": "float32"}


@dataclass(frozen=True)
class Workshop:
    """Where small copies of the shipped folders are made.

    Args:
        root: Holds the copies.
        images: A .npz file for the data set `arrays`: 40 training and 40 test images of the embedded ones.
    """

    root: Path
    images: Path

    @property
    def dataset(self) -> dict[str, Any]:
        return {"name": "arrays", "path": str(self.images), "val_size": 10}

    def copy(self, name: str, **changes: Any) -> Folder:
        """The shipped folder and those that it needs, made small."""
        folder = Folder(self.root / name.replace("/", "_"))
        params = read_json(ROOT / "experiments" / name / "params.json")
        options = {key: value for key, value in params["dataset"].items() if key in ("val_size", "augment", "cutout")}
        student = params["student"] | SMALLER.get(params["student"]["name"], {})
        params |= FEW | {"dataset": self.dataset | options, "student": student}
        for key in ("teacher", "init"):
            if key in params:
                params[key] = str(self.copy(params[key].removeprefix("experiments/")).path)
        return write(folder, params | changes)

    def copy_search(self, name: str, *counts: int) -> Folder:
        """The same for the folder of a search; of its parameters, so many of the first values."""
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


def make_workshop(root: Path) -> Workshop:
    """A workshop in an empty folder."""
    whole = unpack()

    def first(labels: np.ndarray[Any, Any], per_class: int) -> np.ndarray[Any, Any]:
        return np.concatenate([np.flatnonzero(labels == number)[:per_class] for number in np.unique(labels)])

    chosen, tested = first(whole.train_labels, 4), first(whole.test_labels, 4)
    np.savez(
        root / "few.npz",
        train_images=whole.train_images[chosen],
        train_labels=whole.train_labels[chosen],
        test_images=whole.test_images[tested],
        test_labels=whole.test_labels[tested],
    )
    return Workshop(root, root / "few.npz")


class InThisProcess:
    """An engine that calls train.py's main where another starts a process, which takes seconds to import torch."""

    def __init__(self) -> None:
        self._ended: dict[JobHandle, int] = {}

    @classmethod
    def for_runs(cls, num_runs: int, **_: Any) -> InThisProcess:
        return cls()

    OPTIONS = ()
    max_jobs = threads_per_job = 1

    def describe(self) -> str:
        return "one at a time"

    def can_submit(self) -> bool:
        return not self._ended

    def submit(self, job: Job) -> JobHandle:
        with pytest.MonkeyPatch.context() as patched, job.log.open("a") as output:
            patched.setattr(sys, "argv", [*job.argv()[1:]])
            with redirect_stdout(output), redirect_stderr(output), pytest.raises(SystemExit) as ended:
                run_script(train.main)
        handle = JobHandle(str(job.folder))
        self._ended[handle] = int(ended.value.code or 0)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None

    def poll(self, handle: JobHandle) -> JobEnd | None:
        return JobEnd(self._ended.pop(handle))

    def stop(self, handle: JobHandle) -> None:
        raise AssertionError("the run has ended")

    kill = stop


def trained(folder: Folder, call: Call) -> Folder:
    """The folder after train.py, which leaves a finished one alone."""
    ended = call(train.main, "--model_dir", folder.path)
    assert ended.status == 0, ended.err
    return folder


def searched(folder: Folder, call: Call) -> str:
    """The first table that search_hyperparams.py prints."""
    ended = call(search_hyperparams.main, "--parent_dir", folder.path)
    assert ended.status == 0, ended.err
    return ended.out.strip().split("\n\n")[0]


def table_of(path: Path, call: Call) -> str:
    """What synthesize_results.py writes."""
    assert call(synthesize_results.main, "--parent_dir", path).status == 0
    return (path / "results.md").read_text(encoding="utf-8").rstrip("\n")


def accuracy(folder: Folder, key: str = "accuracy") -> float:
    """On test, of the best weights."""
    return float(read_json(folder.metrics("test", "best"))[key])
