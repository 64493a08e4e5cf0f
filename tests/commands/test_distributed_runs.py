"""torchrun train.py: two processes do what one does, in the same folders, and end distributed_worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from model.build.experiment import Experiment
from model.build.runtime import Runtime, find_device
from model.commands.train import refuse_small_shards
from model.config.folder import Folder
from model.errors import Stopped, UserError
from model.files import read_json
from model.home import ROOT
from model.training.checkpoint import load_checkpoint
from model.training.distributed import World
from model.training.trainer import Trainer
from model.types import Batch
from tests.conftest import MakeFolder

# Losses on maps, so that the teacher is live; among them some that compare images and some that own parameters.
COMPARED = {"kd": {"alpha": 0.5}, "sp": {"weight": 10.0}, "rkd": {"weight": 0.05}, "vid": {"weight": 0.1}}
SGD = {"name": "sgd", "learning_rate": 0.02}


class Ended(NamedTuple):
    """How a torchrun ended: the exit statuses of its processes, as far as it tells them, and all that was printed."""

    statuses: list[int]
    out: str


def torchrun(*arguments: object) -> Ended:
    """Two processes on this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    statuses = [int(status) for status in re.findall(r"exitcode +: (-?\d+)", done.stdout)]
    return Ended(statuses or [done.returncode], done.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """100 training images, of which batches of 15 leave 10; 21 of val and 31 of test, an odd number each."""
    generator = np.random.default_rng(0)
    patterns = generator.uniform(60, 195, (10, 16, 16, 3))
    labels = np.arange(152) % 10
    images = (patterns[labels] + generator.normal(0, 60, (152, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(
        path,
        train_images=images[:121],
        train_labels=labels[:121],
        test_images=images[121:],
        test_labels=labels[121:],
    )
    return {"name": "arrays", "path": str(path), "val_size": 21, "pad": 1}


class Runs(NamedTuple):
    """Folders of the same runs: in one process, and in two."""

    alone: Folder
    shared: Folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def make(folders: Path, data: dict[str, Any], make_folder: MakeFolder) -> MakeFolder:
    def make(path: Path, **changes: Any) -> Folder:
        parts = {"dataset": data, "student": {"name": "lenet"}, "optimizer": SGD, "batch_size": 15}
        return make_folder(folders / path, **(parts | changes))

    return make


@pytest.fixture(scope="module")
def teachers(make: MakeFolder, runtime: Runtime) -> Runs:
    """The second is trained by `students`."""
    alone, shared = (make(Path(name), num_epochs=1) for name in ("teacher_alone", "teacher"))
    Experiment(alone.path, runtime).train()
    return Runs(alone, shared)


@pytest.fixture(scope="module")
def students(teachers: Runs, make: MakeFolder, runtime: Runtime) -> Runs:
    """Both learn from the teacher that two processes have trained."""
    parts = {"teacher": "../teacher", "loss": COMPARED, "gradient_clip": 2.0}
    alone, shared = (make(Path(name), **parts) for name in ("compared_alone", "compared"))
    ended = torchrun("train.py", "--model_dir", shared.path, "--device", "cpu")
    assert ended.statuses == [0], ended.out
    Experiment(alone.path, runtime).train()
    return Runs(alone, shared)


@pytest.fixture(scope="module", params=["teachers", "students"])
def runs(request: pytest.FixtureRequest, students: Runs) -> Runs:
    found: Runs = request.getfixturevalue(request.param)
    return found


def assert_alike(runs: Runs, part: str) -> None:
    """Equal but for rounding: far closer than the training has moved them."""
    alone, shared = (load_checkpoint(folder.checkpoint("last"))[part] for folder in runs)
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=2e-6)


# The same run -------------------------------------------------------------------------------------------------------


def test_two_processes_come_to_the_weights_of_one(runs: Runs) -> None:
    assert_alike(runs, "state_dict")


def test_they_come_to_the_parameters_of_loss_terms(students: Runs) -> None:
    assert_alike(students, "objective")


def test_they_write_the_metrics_of_one(runs: Runs) -> None:
    alone, shared = (folder.read_history() for folder in runs)
    assert len(alone) == len(shared) > 0
    for one, two in zip(alone, shared, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.parametrize(("split", "images"), [("val", 21), ("test", 31)])
@pytest.mark.parametrize("weights", ["best", "last"])
def test_they_evaluate_every_image_once(runs: Runs, split: str, images: int, weights: str) -> None:
    name = f"metrics_{split}_{weights}_weights.json"
    alone, shared = (read_json(folder.path / name) for folder in runs)
    assert shared["num_samples"] == images
    assert shared["accuracy"] == alone["accuracy"]
    assert shared == pytest.approx(alone, rel=1e-4)


def test_one_log_tells_of_the_run(runs: Runs) -> None:
    log = runs.shared.log.read_text()
    assert log.count("is finished:") == 1
    assert [log.count(f"epoch {number}/") for number in (1, 2)] == [1, len(runs.alone.read_history()) - 1]
    assert "float32 on cpu in 2 processes: about" in log


def test_run_json_says_how_many_they_are(runs: Runs) -> None:
    assert [folder.read_run()["processes"] for folder in runs] == [1, 2]


def test_they_leave_the_files_that_one_leaves(runs: Runs) -> None:
    alone, shared = ({path.name for path in folder.path.iterdir()} for folder in runs)
    assert shared == alone


# Another number goes on -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_over(students: Runs, make: MakeFolder, runtime: Runtime) -> tuple[Runs, list[tuple[str, int]], Ended]:
    """A run that one process begins, two go on with, and one ends; what each interruption left."""
    parts = {"teacher": "../teacher", "loss": {"kd": {"alpha": 0.5}}}
    alone, shared = (make(Path(name), **parts) for name in ("kd_alone", "kd"))
    left: list[tuple[str, int]] = []

    def look() -> None:
        left.append((shared.state(), load_checkpoint(shared.checkpoint("last"))["step"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping_at(3))
        with pytest.raises(Stopped):
            Experiment(shared.path, runtime).train()
    look()
    ended = torchrun(
        "-m", "tests.kill_during_training", 9, int(signal.SIGTERM), "--model_dir", shared.path, "--device", "cpu"
    )
    look()
    Experiment(shared.path, runtime).train()
    Experiment(alone.path, runtime).train()
    return Runs(alone, shared), left, ended


def stopping_at(step: int) -> Any:
    take_step = Trainer.take_step

    def step_and_signal(trainer: Trainer, batch: Batch) -> None:
        take_step(trainer, batch)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return step_and_signal


def test_signal_to_one_stops_all_after_the_same_step(
    handed_over: tuple[Runs, list[tuple[str, int]], Ended],
) -> None:
    _, left, ended = handed_over
    assert left == [("stopped", 3), ("stopped", 9)]
    assert set(ended.statuses) == {75}, ended.out
    assert len(re.findall(r"^stopped: .* saved at step 9 of 14$", ended.out, re.M)) == 1


@pytest.mark.parametrize("part", ["state_dict", "objective"])
def test_run_in_changing_numbers_of_processes_is_that_of_one(
    handed_over: tuple[Runs, list[tuple[str, int]], Ended], part: str
) -> None:
    assert_alike(handed_over[0], part)


def test_metrics_of_a_run_in_changing_numbers_are_those_of_one(
    handed_over: tuple[Runs, list[tuple[str, int]], Ended],
) -> None:
    test_they_write_the_metrics_of_one(handed_over[0])


def test_answers_of_the_teacher_are_counted_in_all_processes(
    handed_over: tuple[Runs, list[tuple[str, int]], Ended],
) -> None:
    runs, _, _ = handed_over
    alone, shared = (folder.read_run()["teacher_images"] for folder in runs)
    assert shared["asked"] == alone["asked"] == 200
    assert 0 < shared["run"] <= 400  # both may ask about the same image at the same time
    assert alone["run"] == 0  # what two processes have kept is found


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_mistake_is_told_once(make: MakeFolder) -> None:
    folder = make(Path("mistaken"), loss={"kb": {}})
    ended = torchrun("train.py", "--model_dir", folder.path, "--device", "cpu")
    assert set(ended.statuses) == {2}, ended.out
    assert len(re.findall("^error: .*", ended.out, re.M)) == 1
    assert 'no loss is named "kb"' in ended.out
    assert ended.out.count("Traceback") == 1, ended.out  # torchrun's own
    assert {path.name for path in folder.path.iterdir()} == {"params.json"}


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 11, "batch_size: the last batch of an epoch has 10 images, and 11 processes need 11"),
        ({"batch_size": 4}, 5, "batch_size: a batch has 4 images, and 5 processes need 5"),
        (
            {"student": {"name": "cnn"}},
            6,
            "batch_size: the last batch of an epoch has 10 images, and 6 processes need 12",
        ),
        ({"batch_size": 100}, 22, "dataset: val has 21 images, too few for 22 processes"),
    ],
)
def test_more_processes_than_images_are_refused(
    changes: dict[str, Any], size: int, message: str, make: MakeFolder, runtime: Runtime
) -> None:
    folder = make(Path(f"small_{size}"), **changes)
    many = Runtime(device=runtime.device, data_dir=runtime.data_dir, world=World(size=size))
    with pytest.raises(UserError, match=re.escape(f"{folder.params}: {message}")):
        refuse_small_shards(Experiment(folder.path, many))


# Devices --------------------------------------------------------------------------------------------------------------


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second, third = (World(rank=4 + number, size=8, local_rank=number) for number in (1, 2))
    assert find_device("auto", second) == find_device("cuda", second) == torch.device("cuda:1")
    with pytest.raises(UserError, match="more processes than GPUs here: --nproc_per_node 2"):
        find_device("auto", third)
    with pytest.raises(UserError, match="--device cuda:1: every process has a GPU of its own"):
        find_device("cuda:1", second)
    assert find_device("cpu", third) == torch.device("cpu")
