"""torchrun train.py: two processes give the results and files of one, and stop together."""

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


class TorchrunResult(NamedTuple):
    """The exit statuses of the processes, as far as torchrun reports them, and all output."""

    statuses: list[int]
    out: str


def torchrun(*arguments: object) -> TorchrunResult:
    """Two processes on this machine."""
    completed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    statuses = [int(status) for status in re.findall(r"exitcode +: (-?\d+)", completed.stdout)]
    return TorchrunResult(statuses or [completed.returncode], completed.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """100 training images, so that the last batch of 15 has 10; 21 images of val and 31 of test, odd numbers."""
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
    """Folders of the same run in one process and in two."""

    single: Folder
    distributed: Folder


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
    """`teachers.distributed` is trained by `students`."""
    single, distributed = (make(Path(name), num_epochs=1) for name in ("teacher_single", "teacher"))
    Experiment(single.path, runtime).train()
    return Runs(single, distributed)


@pytest.fixture(scope="module")
def students(teachers: Runs, make: MakeFolder, runtime: Runtime) -> Runs:
    """Both have the teacher that was trained in two processes."""
    parts = {"teacher": "../teacher", "loss": COMPARED, "gradient_clip": 2.0}
    single, distributed = (make(Path(name), **parts) for name in ("compared_single", "compared"))
    result = torchrun("train.py", "--model_dir", distributed.path, "--device", "cpu")
    assert result.statuses == [0], result.out
    Experiment(single.path, runtime).train()
    return Runs(single, distributed)


@pytest.fixture(scope="module")
def options(make: MakeFolder, runtime: Runtime) -> Runs:
    """Options of training together: 7 batches an epoch make steps of 3, 3 and 1."""
    optimizer = SGD | {"layer_decay": 0.9, "classifier_learning_rate": 0.01, "decay_norms_and_biases": False}
    parts = {"optimizer": optimizer, "accumulate": 3, "freeze": ["conv1"], "ema": 0.8, "early_stopping": {}}
    single, distributed = (make(Path(name), **parts) for name in ("options_single", "options"))
    result = torchrun("train.py", "--model_dir", distributed.path, "--device", "cpu")
    assert result.statuses == [0], result.out
    Experiment(single.path, runtime).train()
    return Runs(single, distributed)


@pytest.fixture(scope="module", params=["teachers", "students", "options"])
def runs(request: pytest.FixtureRequest, students: Runs) -> Runs:
    runs: Runs = request.getfixturevalue(request.param)
    return runs


def assert_close(runs: Runs, part: str) -> None:
    """Equal up to rounding: differences are far smaller than the changes by training."""
    single, distributed = (load_checkpoint(folder.checkpoint("last"))[part] for folder in runs)
    assert single.keys() == distributed.keys()
    for name, tensor in single.items():
        torch.testing.assert_close(distributed[name], tensor, rtol=1e-4, atol=2e-6)


# Equal results ------------------------------------------------------------------------------------------------------


def test_two_processes_reach_the_weights_of_one(runs: Runs) -> None:
    assert_close(runs, "state_dict")


def test_two_processes_reach_the_averaged_weights_of_one(options: Runs) -> None:
    single, distributed = (load_checkpoint(folder.checkpoint("ema")) for folder in options)
    assert single["epoch"] == distributed["epoch"]
    for name, tensor in single["state_dict"].items():
        torch.testing.assert_close(distributed["state_dict"][name], tensor, rtol=1e-4, atol=2e-6)


def test_two_processes_reach_the_loss_parameters_of_one(students: Runs) -> None:
    assert_close(students, "objective")


def test_two_processes_write_the_metrics_of_one(runs: Runs) -> None:
    single, distributed = (folder.read_history() for folder in runs)
    assert len(single) == len(distributed) > 0
    for one, two in zip(single, distributed, strict=True):
        one = {
            name: value for name, value in one.items() if not name.startswith("gradient_norm_")
        }  # of one process only
        assert one.keys() == two.keys()
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize(("split", "images"), [("val", 21), ("test", 31)])
@pytest.mark.parametrize("weights", ["best", "last"])
def test_two_processes_evaluate_every_image_once(runs: Runs, split: str, images: int, weights: str) -> None:
    name = f"metrics_{split}_{weights}_weights.json"
    single, distributed = (read_json(folder.path / name) for folder in runs)
    assert distributed["num_samples"] == images
    assert distributed["accuracy"] == single["accuracy"]
    assert distributed == pytest.approx(single, rel=1e-4)


def test_only_rank_zero_writes_the_log(runs: Runs) -> None:
    log = runs.distributed.log.read_text()
    assert log.count("is finished:") == 1
    assert [log.count(f"epoch {number}/") for number in (1, 2)] == [1, len(runs.single.read_history()) - 1]
    assert "float32 on cpu in 2 processes: about" in log


def test_run_json_has_the_number_of_processes(runs: Runs) -> None:
    assert [folder.read_run()["processes"] for folder in runs] == [1, 2]


def test_two_processes_write_the_files_of_one(runs: Runs) -> None:
    single, distributed = ({path.name for path in folder.path.iterdir()} for folder in runs)
    assert distributed == single


# Resuming with another number of processes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed_run(
    students: Runs, make: MakeFolder, runtime: Runtime
) -> tuple[Runs, list[tuple[str, int]], TorchrunResult]:
    """A run begun by one process, resumed by two and finished by one; state and step after each interruption."""
    parts = {"teacher": "../teacher", "loss": {"kd": {"alpha": 0.5}}}
    single, distributed = (make(Path(name), **parts) for name in ("kd_single", "kd"))
    interruptions: list[tuple[str, int]] = []

    def record_interruption() -> None:
        interruptions.append((distributed.state(), load_checkpoint(distributed.checkpoint("last"))["step"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", signal_at_step(3))
        with pytest.raises(Stopped):
            Experiment(distributed.path, runtime).train()
    record_interruption()
    result = torchrun(
        "-m", "tests.kill_during_training", 9, int(signal.SIGTERM), "--model_dir", distributed.path, "--device", "cpu"
    )
    record_interruption()
    Experiment(distributed.path, runtime).train()
    Experiment(single.path, runtime).train()
    return Runs(single, distributed), interruptions, result


def signal_at_step(step: int) -> Any:
    take_step = Trainer.take_step

    def step_and_signal(trainer: Trainer, batch: Batch) -> None:
        take_step(trainer, batch)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return step_and_signal


def test_signal_to_one_process_stops_all_after_the_same_step(
    resumed_run: tuple[Runs, list[tuple[str, int]], TorchrunResult],
) -> None:
    _, interruptions, result = resumed_run
    assert interruptions == [("stopped", 3), ("stopped", 9)]
    assert set(result.statuses) == {75}, result.out
    assert len(re.findall(r"^stopped: .* saved at step 9 of 14$", result.out, re.M)) == 1


@pytest.mark.parametrize("part", ["state_dict", "objective"])
def test_run_with_changing_numbers_of_processes_equals_that_of_one(
    resumed_run: tuple[Runs, list[tuple[str, int]], TorchrunResult], part: str
) -> None:
    assert_close(resumed_run[0], part)


def test_metrics_with_changing_numbers_of_processes_equal_those_of_one(
    resumed_run: tuple[Runs, list[tuple[str, int]], TorchrunResult],
) -> None:
    test_two_processes_write_the_metrics_of_one(resumed_run[0])


def test_teacher_outputs_are_counted_over_all_processes(
    resumed_run: tuple[Runs, list[tuple[str, int]], TorchrunResult],
) -> None:
    runs, _, _ = resumed_run
    single, distributed = (folder.read_run()["teacher_images"] for folder in runs)
    assert distributed["asked"] == single["asked"] == 200
    assert 0 < distributed["run"] <= 400  # both processes may compute the same output at the same time
    assert single["run"] == 0  # the outputs cached by two processes are used


# Failures -----------------------------------------------------------------------------------------------------------


def test_user_error_is_reported_once(make: MakeFolder) -> None:
    folder = make(Path("misspelt_loss"), loss={"kb": {}})
    result = torchrun("train.py", "--model_dir", folder.path, "--device", "cpu")
    assert set(result.statuses) == {2}, result.out
    assert len(re.findall("^error: .*", result.out, re.M)) == 1
    assert 'no loss is named "kb"' in result.out
    assert result.out.count("Traceback") == 1, result.out  # that of torchrun
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
    distributed_runtime = Runtime(device=runtime.device, data_dir=runtime.data_dir, world=World(size=size))
    with pytest.raises(UserError, match=re.escape(f"{folder.params}: {message}")):
        refuse_small_shards(Experiment(folder.path, distributed_runtime))


# Devices ------------------------------------------------------------------------------------------------------------


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
