"""What forbids going on with a run, and what does not: only what changes results does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.errors import Stopped
from model.files import read_json
from model.home import TRAIN_COMMAND
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

Arrays = dict[str, Any]


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may change."""
    return Path(shutil.copy(tiny_data, tmp_path / "data.npz"))


def stop(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, step: int = 15) -> Folder:
    """Train up to a step of the second epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping_at(step))
        with pytest.raises(Stopped):
            experiment.train()
    return experiment.folder


def stopping_at(step: int) -> Callable[..., None]:
    take_step = Trainer.take_step

    def take(self: Trainer, batch: Any) -> None:
        take_step(self, batch)
        self.should_stop = lambda: self.step >= step

    return take


def go_on(folder: Folder, call: Call) -> Any:
    return call(train.main, "--model_dir", folder.path, "--device", "cpu")


def edit(folder: Folder, **changes: Any) -> None:
    folder.params.write_text(json.dumps(read_json(folder.params) | changes))


@pytest.fixture
def stopped(
    data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    folder = make_folder(tmp_path / "run", dataset={"name": "arrays", "path": str(data), "val_size": 40, "pad": 1})
    return stop(Experiment(folder.path, runtime), monkeypatch)


# Data ---------------------------------------------------------------------------------------------------------------


def another_pixel(arrays: Arrays) -> Arrays:
    images = arrays["train_images"].copy()
    images[7, 0, 0, 0] ^= 1
    return {"train_images": images}


def another_label(arrays: Arrays) -> Arrays:
    labels = arrays["train_labels"].copy()
    labels[[3, 4]] = labels[[4, 3]]
    return {"train_labels": labels}


def another_test_image(arrays: Arrays) -> Arrays:
    return {"test_images": arrays["test_images"][::-1]}


def one_image_more(arrays: Arrays) -> Arrays:
    return {key: np.concatenate([arrays[key], arrays[key][:1]]) for key in ("train_images", "train_labels")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_pixel, "train images of other content"),
        (another_label, "train images of other labels"),
        (another_test_image, "test images of other content"),
        (one_image_more, "241 train images, 240 then"),
    ],
)
def test_a_run_does_not_go_on_with_changed_data(
    stopped: Folder, data: Path, call: Call, change: Callable[[Arrays], Arrays], told: str
) -> None:
    arrays = dict(np.load(data))
    np.savez(data, **arrays | change(arrays))
    before = stopped.checkpoint("last").read_bytes()
    result = go_on(stopped, call)
    assert result.status == 2
    expected = f"error: {stopped.name}: its data changed since the run began: {told}; --restart begins anew\n"
    assert result.err == expected
    assert stopped.checkpoint("last").read_bytes() == before


def test_a_run_does_not_go_on_with_renamed_classes(stopped: Folder, data: Path, call: Call) -> None:
    np.savez(data, **dict(np.load(data)), class_names=np.array(list("abcdefghij")))
    result = go_on(stopped, call)
    assert result.status == 2
    assert "its classes changed since the run began: a, b, c" in result.err


@pytest.fixture
def finished(data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> Folder:
    folder = make_folder(tmp_path / "run", dataset={"name": "arrays", "path": str(data)}, num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


def test_a_finished_run_with_changed_data_is_left_alone(finished: Folder, data: Path, call: Call) -> None:
    arrays = dict(np.load(data))
    np.savez(data, **arrays | another_pixel(arrays))
    assert go_on(finished, call).status == 0


def test_evaluation_tells_that_the_data_changed(finished: Folder, data: Path, call: Call) -> None:
    arrays = dict(np.load(data))
    np.savez(data, **arrays | another_test_image(arrays))
    result = call(evaluate.main, "--model_dir", finished.path, "--device", "cpu")
    assert result.status == 0
    assert "the data is not that which the weights were trained with: test images of other content" in result.err


def test_evaluation_tells_that_the_image_size_changed(
    data: Path, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    dataset = {"name": "arrays", "path": str(data), "val_size": 40}
    folder = make_folder(tmp_path / "run", dataset=dataset, student={"name": "resnet8"}, num_epochs=1)
    Experiment(folder.path, runtime).train()
    arrays = dict(np.load(data))
    larger = {key: arrays[key].repeat(2, axis=1).repeat(2, axis=2) for key in ("train_images", "test_images")}
    np.savez(data, **arrays | larger)
    result = call(evaluate.main, "--model_dir", folder.path, "--device", "cpu")
    assert result.status == 0
    assert "was trained on images of shape (3, 8, 8), these are (3, 16, 16)" in result.err


def test_the_fingerprint_is_in_run_json_and_in_the_weights_files(stopped: Folder, data: Path, runtime: Runtime) -> None:
    fingerprint = Experiment(stopped.path, runtime).data.fingerprint.as_json()
    contents = [load_checkpoint(stopped.checkpoint("last")), load_checkpoint(stopped.checkpoint("best"))]
    assert [each["fingerprint"] for each in (stopped.read_run(), *contents)] == [fingerprint] * 3
    assert fingerprint["train"]["images"] == 240
    assert fingerprint["test"]["images"] == 60


# What changes no result ---------------------------------------------------------------------------------------------


def test_the_spelling_of_a_path_may_change(stopped: Folder, data: Path, call: Call) -> None:
    (data.parent / "link").symlink_to(data.parent)
    edit(stopped, dataset=read_json(stopped.params)["dataset"] | {"path": f"{data.parent}/./link/{data.name}"})
    assert go_on(stopped, call).status == 0


def test_the_data_may_be_moved(stopped: Folder, data: Path, call: Call) -> None:
    edit(stopped, dataset=read_json(stopped.params)["dataset"] | {"path": str(data.rename(data.parent / "moved.npz"))})
    assert go_on(stopped, call).status == 0


@pytest.mark.parametrize("changes", [{"compile": False}, {"description": "other"}, {"checkpoint_minutes": 1.0}])
def test_what_says_how_a_run_is_carried_out_may_change(stopped: Folder, call: Call, changes: dict[str, Any]) -> None:
    edit(stopped, **changes)
    assert go_on(stopped, call).status == 0


@pytest.mark.parametrize("changes", [{"num_epochs": 3}, {"seed": 1}, {"batch_size": 8}])
def test_what_changes_results_may_not(stopped: Folder, call: Call, changes: dict[str, Any]) -> None:
    edit(stopped, **changes)
    assert go_on(stopped, call).status == 2


@pytest.fixture
def teacher(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> Folder:
    folder = make_folder(tmp_path / "teacher", num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def student(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    """A stopped student."""
    folder = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    return stop(Experiment(folder.path, runtime), monkeypatch)


def test_a_teacher_may_be_renamed(student: Folder, teacher: Folder, tmp_path: Path, call: Call) -> None:
    teacher.path.rename(tmp_path / "renamed")
    edit(student, teacher=str(tmp_path / "renamed"))
    assert go_on(student, call).status == 0


def test_a_renamed_teacher_of_other_weights_is_refused(
    student: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    other = make_folder(tmp_path / "other", num_epochs=1, seed=1)
    Experiment(other.path, runtime).train()
    edit(student, teacher=str(other.path))
    result = go_on(student, call)
    assert result.status == 2
    assert f"the weights of its teacher {other.name} changed since the run began" in result.err


# Damaged files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"\0" * 200, b"[]"])
@pytest.mark.parametrize("name", ["run.json", "params_resolved.json"])
def test_a_damaged_file_does_not_stop_a_run_whose_checkpoint_is_whole(
    stopped: Folder, runtime: Runtime, make_folder: MakeFolder, tmp_path: Path, call: Call, name: str, content: bytes
) -> None:
    (stopped.path / name).write_bytes(content)
    result = go_on(stopped, call)
    assert result.status == 0, result.err
    assert "resuming at step 15 of 26" in result.err
    whole = make_folder(tmp_path / "whole", dataset=read_json(stopped.params)["dataset"])
    Experiment(whole.path, runtime).train()
    states = [load_checkpoint(folder.checkpoint("last"))["state_dict"] for folder in (stopped, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_changed_params_are_refused_without_params_resolved_json(stopped: Folder, call: Call) -> None:
    stopped.resolved.write_text("")
    edit(stopped, seed=1)
    result = go_on(stopped, call)
    assert result.status == 2
    assert "changed since the run began: seed was 0, is 1" in result.err


# Results are not replaced unasked -----------------------------------------------------------------------------------


def snapshot(folder: Folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file() and path.name != ".lock"}


@pytest.fixture
def shipped(teacher: Folder) -> Folder:
    """The results of a finished run without its weights, as this repository has some."""
    for weights in ("best", "last"):
        teacher.checkpoint(weights).unlink()
    return teacher


def test_results_without_weights_are_not_replaced(shipped: Folder, call: Call) -> None:
    before = snapshot(shipped)
    result = go_on(shipped, call)
    assert result.status == 2
    assert result.err == (
        f"error: {shipped.name}: holds results that no run here can go on from: metrics.jsonl, "
        "metrics_val_best_weights.json, metrics_val_last_weights.json and 2 more; "
        f"{TRAIN_COMMAND} --model_dir {shipped.name} --restart replaces them by a new run's\n"
    )
    assert snapshot(shipped) == before


def test_restart_replaces_them(shipped: Folder, call: Call) -> None:
    assert call(train.main, "--model_dir", shipped.path, "--device", "cpu", "--restart").status == 0
    assert shipped.is_trained()


def test_those_of_a_teacher_are_not_replaced_for_its_student(
    shipped: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    before = snapshot(shipped)
    student = make_folder(tmp_path / "student", teacher=str(shipped.path), loss={"kd": {}}, num_epochs=1)
    result = go_on(student, call)
    assert result.status == 2
    assert result.err.startswith(f"error: {shipped.name}: holds results")
    assert snapshot(shipped) == before
    assert not student.run.exists()
    assert call(train.main, "--model_dir", student.path, "--device", "cpu", "--restart").status == 0
    assert shipped.is_trained()


def test_restart_replaces_those_of_a_teachers_teacher(
    shipped: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    changes: dict[str, Any] = {"loss": {"kd": {}}, "num_epochs": 1}
    middle = make_folder(tmp_path / "middle", teacher=str(shipped.path), **changes)
    student = make_folder(tmp_path / "student", teacher=str(middle.path), **changes)
    assert go_on(student, call).status == 2
    assert call(train.main, "--model_dir", student.path, "--device", "cpu", "--restart").status == 0
    assert shipped.is_trained()
    assert student.is_trained()


def test_dry_run_calls_such_a_teacher_neither_finished_nor_trained(
    shipped: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    student = make_folder(tmp_path / "student", teacher=str(shipped.path), loss={"kd": {}})
    output = call(train.main, "--model_dir", student.path, "--dry_run", "--device", "cpu").out
    line = next(line for line in output.splitlines() if line.startswith("teacher "))
    assert "finished" not in line
    assert "trained" not in line
    assert "results that only --restart replaces (metrics.jsonl, " in line


def test_weights_without_a_run_are_not_overwritten(
    teacher: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "copied", num_epochs=1)
    shutil.copy(teacher.checkpoint("best"), folder.checkpoint("best"))
    before = snapshot(folder)
    assert go_on(folder, call).status == 2
    assert snapshot(folder) == before


def test_generations_without_weights_are_not_replaced(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", generations=2, loss={"kd": {}}, num_epochs=1)
    Experiment(folder.path, runtime).train()
    for path in folder.path.rglob("*.pth.tar"):
        path.unlink()
    before = snapshot(folder)
    assert go_on(folder, call).status == 2
    assert snapshot(folder) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(stopped: Folder, call: Call) -> None:
    stopped.checkpoint("last").unlink()
    run = read_json(stopped.run)
    stopped.run.write_text(json.dumps({key: value for key, value in run.items() if key != "epoch"}))
    assert go_on(stopped, call).status == 0


def test_a_run_whose_checkpoint_was_removed_keeps_its_metrics(stopped: Folder, call: Call) -> None:
    stopped.checkpoint("last").unlink()
    before = stopped.history.read_text()
    assert go_on(stopped, call).status == 2
    assert stopped.history.read_text() == before
