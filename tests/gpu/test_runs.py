"""Whole runs on a GPU: train.py and evaluate.py, resuming, compiling, caching teacher outputs, several GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.errors import Stopped
from model.files import read_json
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from model.types import Batch
from tests.commands.test_distributed_runs import torchrun
from tests.conftest import Call, MakeFolder

# Without max pooling, whose backward pass has no deterministic algorithm on a GPU.
STUDENT = {"name": "wrn", "depth": 10, "width": 1.0, "dropout": 0.2}
SGD = {"name": "sgd", "learning_rate": 0.02}
CHANCE = 0.1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, on_gpu: Runtime) -> Folder:
    """A finished run, in the precision that `auto` chooses."""
    folder = make_folder(
        tmp_path_factory.mktemp("gpu") / "teacher", student={"name": "resnet8"}, num_epochs=4, precision="auto"
    )
    Experiment(folder.path, on_gpu).train()
    return folder


@pytest.fixture
def make_student(teacher: Folder, make_folder: MakeFolder, tmp_path: Path) -> MakeFolder:
    def make(path: Path, **changes: Any) -> Folder:
        parts = {"student": STUDENT, "optimizer": SGD, "loss": {"kd": {}}, "teacher": str(teacher.path)}
        return make_folder(tmp_path / path, **(parts | changes))

    return make


def metrics(folder: Folder, split: Any = "test") -> dict[str, float]:
    values: dict[str, float] = read_json(folder.metrics(split, "best"))
    return values


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder.checkpoint("last"))["state_dict"]
    return state


def are_equal(one: Folder, other: Folder) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# train.py and evaluate.py ---------------------------------------------------------------------------------------------


def test_run_learns(teacher: Folder) -> None:
    assert metrics(teacher)["accuracy"] > 3 * CHANCE


def test_run_says_on_which_gpu_it_was(teacher: Folder, gpu: torch.device) -> None:
    assert read_json(teacher.run)["device"] == torch.cuda.get_device_name(gpu)


def test_run_records_the_memory_of_the_gpu(teacher: Folder, gpu: torch.device) -> None:
    assert 0 < read_json(teacher.run)["peak_memory_bytes"] < torch.cuda.get_device_properties(gpu).total_memory


def test_weights_files_need_no_gpu(teacher: Folder) -> None:
    assert {tensor.device.type for tensor in weights(teacher).values()} == {"cpu"}


@pytest.mark.parametrize("loss", [{"kd": {}}, {"ce": {}, "at": {}}, {"ce": {}, "crd": {"num_negatives": 50}}], ids=str)
def test_train_py_distills(loss: dict[str, Any], make_student: MakeFolder, call: Call, on_gpu: Runtime) -> None:
    folder = make_student(Path("student"), loss=loss, precision="auto")
    arguments = ("--model_dir", folder.path, "--device", "cuda", "--data_dir", on_gpu.data_dir)
    dry = call(train.main, *arguments, "--dry_run")
    assert dry.status == 0, dry.err
    result = call(train.main, *arguments)
    assert result.status == 0, result.err
    assert folder.state() == "finished"


def test_evaluate_py_agrees_with_the_cpu(teacher: Folder, call: Call, on_gpu: Runtime) -> None:
    values = []
    for device in ("cuda", "cpu"):
        result = call(evaluate.main, "--model_dir", teacher.path, "--device", device, "--data_dir", on_gpu.data_dir)
        assert result.status == 0, result.err
        values.append(read_json(teacher.evaluation / "test_best.json"))
    assert values[0]["loss"] == pytest.approx(values[1]["loss"], rel=0.05)
    assert values[0]["num_samples"] == values[1]["num_samples"]


# Resuming -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the next run stop after a step, as by a signal."""
    take_step = Trainer.take_step

    def stop_after(step: int) -> None:
        def take_step_and_stop(trainer: Trainer, batch: Batch) -> None:
            take_step(trainer, batch)
            if trainer.step == step:
                trainer.should_stop = lambda: True

        monkeypatch.setattr(Trainer, "take_step", take_step_and_stop)

    return stop_after


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16", "optimizer": {"name": "adam"}},
        {"loss": {"ce": {}, "at": {}, "ofd": {}, "crd": {"num_negatives": 50}}, "gradient_clip": 1.0},
        {"strong_view": True},
    ],
    ids=str,
)
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    changes: dict[str, Any], make_student: MakeFolder, on_gpu: Runtime, stop_after: Any
) -> None:
    whole, resumed = (make_student(Path(name), **changes) for name in ("whole", "resumed"))
    Experiment(whole.path, on_gpu).train()
    stop_after(17)  # of 26
    with pytest.raises(Stopped):
        Experiment(resumed.path, on_gpu).train()
    Experiment(resumed.path, on_gpu).train()
    assert are_equal(whole, resumed)
    assert metrics(whole) == metrics(resumed)


@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")], ids=str)
def test_run_is_resumed_on_another_device(
    devices: tuple[str, str], make_student: MakeFolder, on_gpu: Runtime, stop_after: Any
) -> None:
    folder = make_student(Path("moved"), optimizer={"name": "adam"})
    first, second = (Runtime(device=torch.device(name), data_dir=on_gpu.data_dir) for name in devices)
    stop_after(17)
    with pytest.raises(Stopped):
        Experiment(folder.path, first).train()
    Experiment(folder.path, second).train()
    assert folder.state() == "finished"


# Cached teacher outputs -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("deterministic")
def test_run_with_a_full_cache_is_bit_for_bit_the_one_that_filled_it(make_student: MakeFolder, on_gpu: Runtime) -> None:
    first, second = (make_student(Path(name), seed=5) for name in ("first", "second"))
    Experiment(first.path, on_gpu).train()
    Experiment(second.path, on_gpu).train()
    assert read_json(second.run)["teacher_images"]["run"] == 0
    assert are_equal(first, second)


@pytest.mark.usefixtures("full_float32")
def test_run_with_cached_outputs_is_near_the_one_with_a_live_teacher(
    teacher: Folder, make_student: MakeFolder, on_gpu: Runtime
) -> None:
    cached = make_student(Path("cached"))
    live = make_student(Path("live"), teacher={"model_dir": str(teacher.path), "cache": False})
    for folder in (cached, live):
        Experiment(folder.path, on_gpu).train()
    assert metrics(cached, "val")["loss"] == pytest.approx(metrics(live, "val")["loss"], rel=0.02)


# Compiling ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("full_float32")
def test_compiled_run_is_near_the_eager_one_and_uses_cuda_graphs(make_student: MakeFolder, on_gpu: Runtime) -> None:
    from torch._dynamo.utils import counters  # the import takes seconds, also where these tests are left out

    student = {"name": "resnet8"}
    eager, compiled = (
        make_student(Path(name), student=student, compile=is_compiled)
        for name, is_compiled in (("eager", False), ("compiled", True))
    )
    Experiment(eager.path, on_gpu).train()
    counters.clear()
    Experiment(compiled.path, on_gpu).train()
    log = compiled.log.read_text()
    assert "compiling the student" in log
    assert "cannot be compiled" not in log
    assert counters["stats"]["unique_graphs"] > 0
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert metrics(compiled, "val")["loss"] == pytest.approx(metrics(eager, "val")["loss"], rel=0.02)


# Several GPUs ---------------------------------------------------------------------------------------------------------


def test_two_processes_with_nccl_are_near_one(make_student: MakeFolder, on_gpu: Runtime) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, this machine has {torch.cuda.device_count()}")
    loss = {"kd": {"alpha": 0.5}, "sp": {"weight": 10.0}}
    one, two = (make_student(Path(name), loss=loss, student={"name": "resnet8"}) for name in ("one", "two"))
    Experiment(one.path, on_gpu).train()
    result = torchrun("train.py", "--model_dir", two.path, "--data_dir", on_gpu.data_dir)
    assert result.statuses == [0], result.out
    assert read_json(two.run)["processes"] == 2
    assert metrics(two, "val")["loss"] == pytest.approx(metrics(one, "val")["loss"], rel=0.05)
