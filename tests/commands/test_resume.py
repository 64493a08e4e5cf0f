"""A run that was interrupted and resumed equals, bit for bit, an uninterrupted run: train.py in its own processes."""

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

PATIENCE = 120.0  # seconds until a test gives up, enough for a busy machine

# 13 steps an epoch, 3 epochs. Every case has an interruption in the middle of the second or third epoch.
CASES: dict[str, dict[str, Any]] = {
    "adam": {
        "loss": {"kd": {"alpha": 0.7, "temperature": 2.0}},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    },
    "sgd": {
        "loss": {
            "ce": {"label_smoothing": 0.1},
            "logits": {"weight": 0.1, "warmup_epochs": 1.5},
            "fitnet": {"weight": 1.0},  # has parameters
            "ofd": {},  # stores measurements as buffers
            "ctkd": {"weight": 0.1, "curriculum_epochs": 2.0},  # a parameter whose gradient depends on the epoch
            "crd": {"num_negatives": 50},  # has memory banks with a row for every image
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


class Interruption(NamedTuple):
    """Exit status, state of the run and step of the last checkpoint after an interruption."""

    status: int
    state: str
    step: int


class Runs(NamedTuple):
    uninterrupted: Folder
    interrupted: Folder
    interruptions: list[Interruption]


@contextmanager
def start_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a process, which is killed at the end of the block."""
    command = [sys.executable, *map(str, arguments), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output of a process that ends by itself."""
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition is still false"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder) -> Folder:
    return make_folder(
        tmp_path_factory.mktemp("resume") / "teacher", student={"name": "cnn", "num_channels": 6}, num_epochs=2
    )


@pytest.fixture(scope="module")
def uninterrupted(teacher: Folder, make_folder: MakeFolder) -> dict[str, Folder]:
    """Every case without an interruption, in parallel; their untrained teacher is locked until all runs wait for it."""
    folders = {name: make_student(name, teacher, make_folder, "uninterrupted") for name in CASES}
    with ExitStack() as stack, (teacher.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [
            stack.enter_context(start_process("train.py", "--model_dir", folder.path)) for folder in folders.values()
        ]
        wait_until(lambda: all(is_waiting(folder) for folder in folders.values()))
        fcntl.flock(lock, fcntl.LOCK_UN)
        for process in processes:
            status, out = wait_for(process)
            assert status == 0, out
    return folders


def is_waiting(folder: Folder) -> bool:
    return folder.log.exists() and "waiting for process" in folder.log.read_text()


def make_student(name: str, teacher: Folder, make_folder: MakeFolder, kind: str) -> Folder:
    path = teacher.path.parent / name / kind
    return make_folder(path, teacher=str(teacher.path), num_epochs=3, checkpoint_minutes=0, **CASES[name])


@pytest.fixture(scope="module", params=list(CASES))
def runs(
    request: pytest.FixtureRequest, uninterrupted: dict[str, Folder], teacher: Folder, make_folder: MakeFolder
) -> Runs:
    name = request.param
    folder = make_student(name, teacher, make_folder, "interrupted")
    interruptions = []
    for step, number in INTERRUPTIONS[name]:
        with start_process(
            "-m", "tests.kill_during_training", step, int(number), "--model_dir", folder.path
        ) as process:
            status, out = wait_for(process)
        assert folder.checkpoint("last").exists(), out
        interruptions.append(Interruption(status, folder.state(), load_checkpoint(folder.checkpoint("last"))["step"]))
    with start_process("train.py", "--model_dir", folder.path) as process:
        status, out = wait_for(process)
    assert status == 0, out
    return Runs(uninterrupted[name], folder, interruptions)


def test_interruptions_leave_the_expected_state_and_checkpoint(runs: Runs) -> None:
    expected = {
        "adam": [Interruption(-signal.SIGKILL, "killed", 16), Interruption(75, "stopped", 31)],
        "sgd": [Interruption(75, "stopped", 8), Interruption(-signal.SIGKILL, "killed", 32)],
    }
    assert runs.interruptions == expected[runs.interrupted.path.parent.name]


@pytest.mark.parametrize("kind", ["last", "best"])
def test_weights_equal_those_of_the_uninterrupted_run_bit_for_bit(runs: Runs, kind: str) -> None:
    uninterrupted, interrupted = (
        load_checkpoint(folder.path / f"{kind}.pth.tar") for folder in (runs.uninterrupted, runs.interrupted)
    )
    assert uninterrupted["epoch"] == interrupted["epoch"]
    assert uninterrupted["state_dict"].keys() == interrupted["state_dict"].keys()
    for name, tensor in uninterrupted["state_dict"].items():
        assert torch.equal(tensor, interrupted["state_dict"][name]), name


def test_optimizer_state_equals_that_of_the_uninterrupted_run_bit_for_bit(runs: Runs) -> None:
    uninterrupted, interrupted = (
        load_checkpoint(folder.checkpoint("last"))["optimizer"] for folder in (runs.uninterrupted, runs.interrupted)
    )
    assert uninterrupted["param_groups"] == interrupted["param_groups"]
    for number, state in uninterrupted["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(interrupted["state"][number][name]))


def test_history_equals_that_of_the_uninterrupted_run(runs: Runs) -> None:
    def rows(folder: Folder) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
            for row in folder.read_history()
        ]

    assert [row["epoch"] for row in rows(runs.uninterrupted)] == [1, 2, 3]
    assert rows(runs.interrupted) == rows(runs.uninterrupted)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", ["best", "last"])
def test_metrics_files_equal_those_of_the_uninterrupted_run(runs: Runs, split: str, kind: str) -> None:
    name = f"metrics_{split}_{kind}_weights.json"
    assert read_json(runs.interrupted.path / name) == read_json(runs.uninterrupted.path / name)


def test_interrupted_folder_has_the_files_of_an_uninterrupted_run(runs: Runs) -> None:
    def names(folder: Folder) -> set[str]:
        return {path.name for path in folder.path.iterdir()} - {".lock"}

    assert names(runs.interrupted) == names(runs.uninterrupted)


def test_resumed_run_appends_to_the_log(runs: Runs) -> None:
    assert runs.interrupted.log.read_text().count("resuming at step") == 2


def test_teacher_of_two_students_is_trained_once(uninterrupted: dict[str, Folder], teacher: Folder) -> None:
    log = teacher.log.read_text()
    assert (log.count("epoch 1/2:"), log.count("epoch 2/2:"), log.count("is finished")) == (1, 1, 1)
    assert teacher.read_run()["process"] in {folder.read_run()["process"] for folder in uninterrupted.values()}
    assert len({tuple(folder.read_run()["teacher"].items()) for folder in uninterrupted.values()}) == 1
