"""A run that was interrupted and went on is, bit for bit, the run that never was: train.py in its own processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
import torch

from model.config.folder import Folder
from model.files import read_json
from model.home import ROOT
from model.training.checkpoint import load_checkpoint
from tests.conftest import MakeFolder

PATIENCE = 120.0  # seconds, for a machine that is busy

# 13 steps an epoch, 3 epochs. In every case the second epoch's or the third's middle is among the interruptions.
CASES: dict[str, dict[str, Any]] = {
    "adam": {
        "loss": {"kd": {"alpha": 0.7, "temperature": 2.0}},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    },
    "sgd": {
        "loss": {
            "ce": {"label_smoothing": 0.1},
            "logits": {"weight": 0.1, "warmup_epochs": 1.5},
            "fitnet": {"weight": 1.0},  # owns parameters
            "ofd": {},  # keeps what it measured
            "ctkd": {"weight": 0.1, "curriculum_epochs": 2.0},  # a parameter whose gradient depends on the epoch
            "crd": {"num_negatives": 50},  # owns banks of all images
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "nesterov": True},
        "schedule": {"name": "onecycle", "warmup_epochs": 0.5},
        "gradient_clip": 1.0,
        "strong_view": True,
    },
}
INTERRUPTIONS = {
    "adam": [(17, signal.SIGKILL), (31, signal.SIGINT)],
    "sgd": [(8, signal.SIGTERM), (33, signal.SIGKILL)],
}


class Stop(NamedTuple):
    """What an interruption left: exit status, the run's state, the last checkpoint's step."""

    status: int
    state: str
    step: int


class Runs(NamedTuple):
    whole: Folder
    interrupted: Folder
    stops: list[Stop]


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process, which does not outlive the block."""
    command = [sys.executable, *map(str, arguments), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder) -> Folder:
    return make_folder(
        tmp_path_factory.mktemp("resume") / "teacher", student={"name": "cnn", "num_channels": 6}, num_epochs=2
    )


@pytest.fixture(scope="module")
def whole(teacher: Folder, make_folder: MakeFolder) -> dict[str, Folder]:
    """Every case without an interruption, all at once; their untrained teacher is locked until all wait for it."""
    folders = {name: make_student(name, teacher, make_folder, "whole") for name in CASES}
    with ExitStack() as stack, (teacher.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [
            stack.enter_context(started("train.py", "--model_dir", folder.path)) for folder in folders.values()
        ]
        wait_until(lambda: all(waits(folder) for folder in folders.values()))
        fcntl.flock(lock, fcntl.LOCK_UN)
        for process in processes:
            status, out = ended(process)
            assert status == 0, out
    return folders


def waits(folder: Folder) -> bool:
    return folder.log.exists() and "waiting for process" in folder.log.read_text()


def make_student(name: str, teacher: Folder, make_folder: MakeFolder, kind: str) -> Folder:
    path = teacher.path.parent / name / kind
    return make_folder(path, teacher=str(teacher.path), num_epochs=3, checkpoint_minutes=0, **CASES[name])


@pytest.fixture(scope="module", params=list(CASES))
def runs(request: pytest.FixtureRequest, whole: dict[str, Folder], teacher: Folder, make_folder: MakeFolder) -> Runs:
    name = request.param
    folder = make_student(name, teacher, make_folder, "interrupted")
    stops = []
    for step, number in INTERRUPTIONS[name]:
        with started("-m", "tests.kill_during_training", step, int(number), "--model_dir", folder.path) as process:
            status, out = ended(process)
        assert folder.checkpoint("last").exists(), out
        stops.append(Stop(status, folder.state(), load_checkpoint(folder.checkpoint("last"))["step"]))
    with started("train.py", "--model_dir", folder.path) as process:
        status, out = ended(process)
    assert status == 0, out
    return Runs(whole[name], folder, stops)


def test_interruptions_end_as_they_should(runs: Runs) -> None:
    expected = {
        "adam": [Stop(-signal.SIGKILL, "killed", 16), Stop(75, "stopped", 31)],
        "sgd": [Stop(75, "stopped", 8), Stop(-signal.SIGKILL, "killed", 32)],
    }
    assert runs.stops == expected[runs.interrupted.path.parent.name]


@pytest.mark.parametrize("kind", ["last", "best"])
def test_weights_are_bit_for_bit_those_of_the_whole_run(runs: Runs, kind: str) -> None:
    whole, interrupted = (load_checkpoint(folder.path / f"{kind}.pth.tar") for folder in (runs.whole, runs.interrupted))
    assert whole["epoch"] == interrupted["epoch"]
    assert whole["state_dict"].keys() == interrupted["state_dict"].keys()
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, interrupted["state_dict"][name]), name


def test_optimizer_is_bit_for_bit_that_of_the_whole_run(runs: Runs) -> None:
    whole, interrupted = (
        load_checkpoint(folder.checkpoint("last"))["optimizer"] for folder in (runs.whole, runs.interrupted)
    )
    assert whole["param_groups"] == interrupted["param_groups"]
    for number, state in whole["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(interrupted["state"][number][name]))


def test_metrics_are_those_of_the_whole_run(runs: Runs) -> None:
    def rows(folder: Folder) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
            for row in folder.read_history()
        ]

    assert [row["epoch"] for row in rows(runs.whole)] == [1, 2, 3]
    assert rows(runs.interrupted) == rows(runs.whole)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", ["best", "last"])
def test_results_are_those_of_the_whole_run(runs: Runs, split: str, kind: str) -> None:
    name = f"metrics_{split}_{kind}_weights.json"
    assert read_json(runs.interrupted.path / name) == read_json(runs.whole.path / name)


def test_interrupted_folder_holds_the_same_files_in_the_end(runs: Runs) -> None:
    def names(folder: Folder) -> set[str]:
        return {path.name for path in folder.path.iterdir()} - {".lock"}

    assert names(runs.interrupted) == names(runs.whole)


def test_log_is_appended(runs: Runs) -> None:
    assert runs.interrupted.log.read_text().count("resuming at step") == 2


def test_two_students_share_one_training_of_their_teacher(whole: dict[str, Folder], teacher: Folder) -> None:
    log = teacher.log.read_text()
    assert (log.count("epoch 1/2:"), log.count("epoch 2/2:"), log.count("is finished")) == (1, 1, 1)
    assert teacher.read_run()["process"] in {folder.read_run()["process"] for folder in whole.values()}
    assert len({tuple(folder.read_run()["teacher"].items()) for folder in whole.values()}) == 1
