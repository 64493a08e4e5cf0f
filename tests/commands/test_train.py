"""train.py from start to finish: files, states, signals, teachers, dry run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import search_hyperparams
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.seen import held_out_seen, seen_by
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer
from model.build.weights import WeightsFile, weights_digest
from model.commands.preflight import preflight
from model.commands.provenance import provenance
from model.config.folder import Folder
from model.data.arrays import arrays
from model.data.memory import MemoryPipeline
from model.errors import Stopped, UserError
from model.files import read_json
from model.home import ROOT
from model.registry import DATASETS
from model.teachers.ensemble import EnsembleTeacher
from model.teachers.live import LiveTeacher
from model.training.checkpoint import load_checkpoint, save_checkpoint
from model.training.trainer import Trainer
from model.types import Split
from tests.conftest import Call, MakeFolder

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run."""
    folder = make_folder(tmp_path_factory.mktemp("run") / "teacher", student={"name": "cnn", "num_channels": 6})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture(scope="module")
def distilled(teacher: Folder, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run with a teacher; tests that change it use a copy."""
    folder = make_folder(teacher.path.parent / "student", teacher=str(teacher.path), loss={"kd": {}})
    Experiment(folder.path, runtime).train()
    return folder


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file below a folder, except locks."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder.checkpoint("last"))["state_dict"]
    return state


def change(folder: Folder, **changes: Any) -> None:
    folder.params.write_text(json.dumps(read_json(folder.params) | changes))


def send_signals_at(step: int, numbers: list[signal.Signals], monkeypatch: pytest.MonkeyPatch) -> None:
    """Send signals to this process after step `step` of the following runs."""
    take_step = Trainer.take_step

    def step_and_signal(trainer: Trainer, batch: Any) -> None:
        take_step(trainer, batch)
        if trainer.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "take_step", step_and_signal)


def trainer_of(folder: Folder, runtime: Runtime) -> Trainer:
    experiment = preflight(Experiment(folder.path, runtime))
    return build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))


def data_of(folder: Folder, runtime: Runtime) -> MemoryPipeline:
    data = Experiment(folder.path, runtime).data
    assert isinstance(data, MemoryPipeline)
    return data


# The CNN for images of 8 x 8: convolutions, their batch norms, hidden layer with its batch norm, classifier.
PARAMETERS_OF_4_CHANNELS = 112 + 8 + 296 + 16 + 1168 + 32 + 272 + 32 + 170
PARAMETERS_OF_6_CHANNELS = 168 + 12 + 660 + 24 + 2616 + 48 + 600 + 48 + 250
MACS_OF_4_CHANNELS = 64 * 4 * 27 + 16 * 8 * 36 + 4 * 16 * 72 + 16 * 16 + 16 * 10
MACS_OF_6_CHANNELS = 64 * 6 * 27 + 16 * 12 * 54 + 4 * 24 * 108 + 24 * 24 + 24 * 10


# Files of a finished run --------------------------------------------------------------------------------------------


def test_finished_folder_has_the_documented_files(distilled: Folder) -> None:
    assert {path.name for path in distilled.path.iterdir()} - {".lock"} == {
        "params.json",
        "params_resolved.json",
        "run.json",
        "metrics.jsonl",
        "metrics_val_best_weights.json",
        "metrics_val_last_weights.json",
        "metrics_test_best_weights.json",
        "metrics_test_last_weights.json",
        "best.pth.tar",
        "last.pth.tar",
        "train.log",
        "tensorboard",
    }


def test_command_in_run_json_is_relative_to_the_repository(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [f"{ROOT}/train.py", "--model_dir", f"{ROOT}/experiments/base_cnn", "--data_dir", "/data"]
    monkeypatch.setattr(sys, "argv", argv)
    found = provenance(Experiment(make_folder(tmp_path / "run").path, runtime))
    assert found["command"] == ["train.py", "--model_dir", "experiments/base_cnn", "--data_dir", "/data"]


def test_run_json_has_the_provenance_of_the_results(distilled: Folder, teacher: Folder) -> None:
    run = distilled.read_run()
    assert {"host", "began", "command", "device", "threads", "git_commit", "images_per_second"} <= set(run)
    assert (run["state"], run["epoch"], run["num_epochs"], run["progress"]) == ("finished", 2, 2, 1.0)
    assert (run["process"], run["precision"], run["error"]) == (os.getpid(), "float32", None)
    assert set(run["versions"]) >= {"python", "torch"}
    assert run["seconds"] > 0
    assert run["peak_memory_bytes"] > 1_000_000
    assert 0 < run["latency_ms"] < 1000
    assert (run["parameters"], run["macs"]) == (PARAMETERS_OF_4_CHANNELS, MACS_OF_4_CHANNELS)
    assert run["teacher"] == {teacher.name: weights_digest(load_checkpoint(teacher.checkpoint("best"))["state_dict"])}


def test_metrics_files_have_metrics_and_number_of_samples(distilled: Folder) -> None:
    for split, num_samples in (("val", 40), ("test", 60)):
        for kind in ("best", "last"):
            metrics = read_json(distilled.path / f"metrics_{split}_{kind}_weights.json")
            means = {"macro_recall", "macro_f1"}
            assert set(metrics) == {"accuracy", "top5_accuracy", "loss", "epoch", "num_samples", *means}
            assert metrics["num_samples"] == num_samples
            assert (metrics["accuracy"] * num_samples).is_integer()


def test_every_epoch_has_the_means_over_classes_on_val(distilled: Folder) -> None:
    last, rows = read_json(distilled.metrics("val", "last")), distilled.read_history()
    assert all(0 <= row[name] <= 1 for row in rows for name in ("val_macro_recall", "val_macro_f1"))
    assert all(rows[-1][f"val_{name}"] == last[name] for name in ("macro_recall", "macro_f1"))
    assert last["macro_recall"] == pytest.approx(last["accuracy"]), "val has four images of each class"


def test_resolved_params_have_every_default(distilled: Folder) -> None:
    resolved = read_json(distilled.resolved)
    assert resolved["loss"]["kd"]["temperature"] == 4.0
    assert resolved["dataset"]["split_seed"] == 0
    assert resolved["schedule"] == {"name": "constant", "warmup_epochs": 0.0}


def test_params_json_is_never_rewritten(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=1)
    before = (folder.params.read_bytes(), folder.params.stat().st_mtime_ns)
    Experiment(folder.path, runtime).train()
    assert (folder.params.read_bytes(), folder.params.stat().st_mtime_ns) == before


def test_test_split_is_read_only_after_training(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits_read: list[Split] = []
    eval_batches = MemoryPipeline.eval_batches

    def spy(data: MemoryPipeline, split: Split, *arguments: Any) -> Any:
        splits_read.append(split)
        return eval_batches(data, split, *arguments)

    monkeypatch.setattr(MemoryPipeline, "eval_batches", spy)
    folder = make_folder(tmp_path / "run", num_epochs=3)
    Experiment(folder.path, runtime).train()
    is_last_best = read_json(folder.metrics("val", "best"))["epoch"] == 3
    # The last weights, then the best, if these are others.
    assert splits_read == ["val", "val", "val", "test", *([] if is_last_best else ["test"])]


@pytest.mark.parametrize("best_epoch", [1, 2])
def test_both_weights_have_their_own_test_metrics(
    best_epoch: int, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=2)
    rates = {1: 0.5, 2: 0.0} if best_epoch == 1 else {1: 0.0, 2: 0.5}
    validate = Trainer._validate

    def validate_as_planned(trainer: Trainer, epoch: int) -> dict[str, float]:
        evaluate = trainer.evaluate
        trainer.evaluate = lambda net, split: evaluate(net, split) | {"accuracy": rates[epoch]}
        try:
            return validate(trainer, epoch)
        finally:
            trainer.evaluate = evaluate

    monkeypatch.setattr(Trainer, "_validate", validate_as_planned)
    Experiment(folder.path, runtime).train()
    best, last = (read_json(folder.metrics("test", which)) for which in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (best_epoch, 2)
    assert (best["loss"] == last["loss"]) == (best_epoch == 2)


def test_without_a_val_split_the_last_weights_are_the_best(
    make_folder: MakeFolder, tiny_data: Path, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset={"name": "arrays", "path": str(tiny_data), "val_size": 0, "pad": 1})
    Experiment(folder.path, runtime).train()
    assert weights_digest(load_checkpoint(folder.checkpoint("best"))["state_dict"]) == weights_digest(weights(folder))
    assert folder.metrics("test", "best").read_bytes() == folder.metrics("test", "last").read_bytes()
    assert not folder.metrics("val", "best").exists()
    assert "val_loss" not in folder.read_history()[0]


# Seeds --------------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_weights_and_another_seed_others(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    results = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        folder = make_folder(tmp_path / name, seed=seed, num_epochs=1)
        Experiment(folder.path, runtime).train()
        results.append((weights_digest(weights(folder)), read_json(folder.metrics("test", "last"))))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]


def test_initial_weights_depend_on_the_seed(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    digests = []
    for seed in (0, 0, 1):
        trainer = trainer_of(make_folder(tmp_path / "run", seed=seed), runtime)
        digests.append(weights_digest(trainer.student.state_dict()))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


# Running a folder again ---------------------------------------------------------------------------------------------


def test_finished_folder_is_not_changed(distilled: Folder, runtime: Runtime, call: Call) -> None:
    before = snapshot(distilled.path)
    result = call(train.main, "--model_dir", distilled.path)
    assert result.status == 0
    assert len((result.out + result.err).splitlines()) == 1
    assert "is finished: val accuracy" in result.err
    assert snapshot(distilled.path) == before


def test_restart_starts_a_new_run(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=2)
    Experiment(folder.path, runtime).train()
    first_log = folder.log.read_text()
    change(folder, num_epochs=1, seed=3)
    (folder.path / "notes.txt").write_text("mine")
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    assert [row["epoch"] for row in folder.read_history()] == [1]
    assert read_json(folder.resolved)["seed"] == 3
    assert first_log not in folder.log.read_text()
    assert "epoch 1/1" in folder.log.read_text()
    assert (folder.path / "notes.txt").exists()


def test_changed_params_are_refused_with_the_difference(distilled: Folder, tmp_path: Path, call: Call) -> None:
    folder = Folder(shutil.copytree(distilled.path, tmp_path / "copy"))
    change(folder, batch_size=20, loss={"kd": {"alpha": 0.5}})
    before = snapshot(folder.path)
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert "batch_size was 16, is 20; loss.kd.alpha was 0.9, is 0.5" in result.err
    assert snapshot(folder.path) == before


def test_description_and_checkpoint_minutes_may_change(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", checkpoint_minutes=0)
    send_signals_at(5, [signal.SIGTERM], monkeypatch)
    assert call(train.main, "--model_dir", folder.path).status == 75
    change(folder, checkpoint_minutes=3, description="a new one")
    assert call(train.main, "--model_dir", folder.path).status == 0


def test_second_process_is_refused_with_the_name_of_the_first(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run")
    folder.update_run(state="running", process=4321, host="node7")
    with folder.locked():
        result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert "process 4321 on node7 works in this folder" in result.err


def test_running_state_without_a_process_is_killed(make_folder: MakeFolder, tmp_path: Path, distilled: Folder) -> None:
    folder = make_folder(tmp_path / "run")
    folder.update_run(state="running", process=2**22 + 1, host=distilled.read_run()["host"])
    assert folder.state() == "killed"


def test_interrupted_final_evaluation_is_repeated(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "run")

    def stop(*_: object) -> None:
        raise Stopped("between the last epoch and the test metrics")

    with monkeypatch.context() as patch:
        patch.setattr("model.commands.train.finish", stop)
        with pytest.raises(Stopped):
            Experiment(folder.path, runtime).train()
    assert not folder.metrics("test", "best").exists()
    before = weights(folder)
    Experiment(folder.path, runtime).train()
    assert folder.state() == "finished"
    assert folder.metrics("test", "best").exists()
    assert weights_digest(weights(folder)) == weights_digest(before)
    assert [row["epoch"] for row in folder.read_history()] == [1, 2]


# Signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signal_stops_the_run_and_the_same_command_resumes_it(
    number: signal.Signals, distilled: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    folder = Folder(tmp_path / "run")
    folder.path.mkdir()
    shutil.copy(distilled.params, folder.params)
    send_signals_at(17, [number], monkeypatch)
    assert call(train.main, "--model_dir", folder.path).status == 75
    assert folder.state() == "stopped"
    assert load_checkpoint(folder.checkpoint("last"))["step"] == 17
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 0
    assert "resuming at step 17 of 26" in result.err
    assert weights_digest(weights(folder)) == weights_digest(weights(distilled))
    assert folder.metrics("test", "best").read_bytes() == distilled.metrics("test", "best").read_bytes()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_second_ctrl_c_stops_the_run_immediately(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: signal.Signals
) -> None:
    folder = make_folder(tmp_path / "run")
    send_signals_at(5, [first, signal.SIGINT], monkeypatch)
    with pytest.raises(Stopped):
        Experiment(folder.path, runtime).train()
    assert folder.state() == "stopped"
    assert not folder.checkpoint("last").exists()


def test_repeated_signals_of_a_cluster_let_the_run_save_a_checkpoint(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "run")
    send_signals_at(5, [signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM], monkeypatch)
    with pytest.raises(Stopped):
        Experiment(folder.path, runtime).train()
    assert load_checkpoint(folder.checkpoint("last"))["step"] == 5


def test_signal_handlers_are_restored_after_a_run(distilled: Folder, runtime: Runtime) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    Experiment(distilled.path, runtime).train()
    assert [signal.getsignal(number) for number in SIGNALS] == before


# Failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [{"ce": {}}, {"rkd": {}}])
def test_a_single_training_image_is_the_users_mistake(
    loss: dict[str, Any], teacher: Folder, make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, call: Call
) -> None:
    dataset = {"name": "arrays", "path": str(tiny_data), "train_fraction": 0.001}
    folder = make_folder(tmp_path / "run", dataset=dataset, loss=loss, teacher=str(teacher.path))
    result = call(train.main, "--model_dir", folder.path)
    message = f"error: {folder.params}: dataset: train has 1 image, too few for batches of 16\n"
    assert (result.status, result.err) == (2, message)
    assert [path.name for path in folder.path.iterdir() if not path.name.startswith(".")] == ["params.json"]


def test_a_copied_params_resolved_json_trains_the_same_network(
    distilled: Folder, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    copy = Folder(tmp_path / "copy")
    shutil.copy(distilled.resolved, copy.params)
    Experiment(copy.path, runtime).train()
    assert copy.read_run()["weights_digest"] == distilled.read_run()["weights_digest"]


def test_a_run_prints_nothing_but_its_own_lines(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=1)
    command = [sys.executable, "train.py", "--device", "cpu", "--model_dir", str(folder.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    others = [line for line in done.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    assert (done.stdout, others) == ("", [])


def test_failed_run_records_its_error(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", optimizer={"name": "sgd", "learning_rate": 1e38})
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 1
    assert "is not finite in epoch 1 (learning rate 1e+38)" in result.err
    assert folder.state() == "failed"
    assert "not finite" in folder.read_run()["error"]
    assert "not finite" in folder.log.read_text()


# Teachers -----------------------------------------------------------------------------------------------------------


def test_untrained_teacher_is_trained_first_and_once(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    teacher = make_folder(tmp_path / "teacher", num_epochs=1)
    students = [
        make_folder(tmp_path / name, teacher="../teacher", loss={"kd": {}}, num_epochs=1) for name in ("a", "b")
    ]
    Experiment(students[0].path, runtime).train()
    after_the_first = snapshot(teacher.path)
    Experiment(students[1].path, runtime).train()
    assert snapshot(teacher.path) == after_the_first
    assert teacher.state() == "finished"
    assert "is not trained: it is trained first" in students[0].log.read_text()
    assert "trained first" not in students[1].log.read_text()
    assert students[0].read_run()["teacher"] == students[1].read_run()["teacher"]


def test_run_is_not_resumed_with_other_teacher_weights(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher", num_epochs=1)
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train()
    student.update_run(state="stopped")
    content = load_checkpoint(teacher.checkpoint("best"))
    content["state_dict"]["fc2.bias"] += 1
    save_checkpoint(teacher.checkpoint("best"), content)
    result = call(train.main, "--model_dir", student.path)
    assert result.status == 2
    assert "the weights of its teacher" in result.err
    assert "changed since the run began" in result.err
    assert call(train.main, "--model_dir", student.path, "--restart").status == 0


def test_option_missing_from_the_resolved_params_has_its_default(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", num_epochs=1)
    Experiment(folder.path, runtime).train()
    resolved = read_json(folder.resolved)
    del resolved["gradient_clip"], resolved["optimizer"]["eps"]
    folder.resolved.write_text(json.dumps(resolved))
    result = call(train.main, "--model_dir", folder.path)
    assert (result.status, "is finished" in result.err) == (0, True)


def test_weights_saved_with_dataparallel_are_loaded(teacher: Folder, runtime: Runtime) -> None:
    path = teacher.checkpoint("best")
    content = load_checkpoint(path)
    prefixed = {"state_dict": {f"module.{name}": tensor for name, tensor in content["state_dict"].items()}}
    net = Experiment(teacher.path, runtime).student()
    WeightsFile(path, prefixed).load_into(net)
    assert weights_digest(net.state_dict()) == weights_digest(content["state_dict"])


def test_prefix_is_stripped_only_if_every_name_has_it(teacher: Folder, runtime: Runtime) -> None:
    path = teacher.checkpoint("best")
    state = load_checkpoint(path)["state_dict"]
    state["module.fc2.bias"] = state.pop("fc2.bias")
    net = Experiment(teacher.path, runtime).student()
    with pytest.raises(UserError, match=r"lacks fc2\.bias"):
        WeightsFile(path, {"state_dict": state}).load_into(net)


def test_teacher_and_student_have_separate_logs(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    teacher = make_folder(tmp_path / "teacher", num_epochs=1)
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train()
    assert [folder.log.read_text().count("epoch 1/1:") for folder in (teacher, student)] == [1, 1]


@pytest.mark.parametrize(
    ("teacher_dataset", "student_dataset"),
    [
        ({}, {}),
        ({"val_size": 0}, {}),
        ({"val_size": 39}, {}),
        ({"val_size": 60}, {}),
        ({"val_size": None}, {"val_size": 20}),
        ({"val_size": None}, {"val_size": 21}),
        ({"split_seed": 1}, {}),
        ({"split_seed": 1}, {"val_size": 0}),
        ({"pad": 2, "val_size": 0}, {}),
    ],
)
def test_images_of_val_that_a_teacher_will_have_seen_are_counted(
    teacher_dataset: dict[str, Any],
    student_dataset: dict[str, Any],
    make_folder: MakeFolder,
    runtime: Runtime,
    tmp_path: Path,
) -> None:
    dataset = read_json(make_folder(tmp_path / "any").params)["dataset"]
    teacher = make_folder(tmp_path / "teacher", dataset=dataset | teacher_dataset)
    student = make_folder(
        tmp_path / "student", dataset=dataset | student_dataset, teacher=str(teacher.path), loss={"kd": {}}
    )
    teacher_data, student_data = (data_of(folder, runtime) for folder in (teacher, student))
    expected = int((teacher_data.training_labels()[student_data.indices["val"]] >= 0).sum())
    experiment = Experiment(student.path, runtime)
    assert held_out_seen(experiment, seen_by(experiment.teachers[0])) == {"val": expected, "test": 0}


def test_a_teacher_of_another_data_set_has_seen_nothing_of_val(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    teacher = make_folder(tmp_path / "teacher", dataset={"name": "cifar10_mini", "val_size": 0})
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    experiment = Experiment(student.path, runtime)
    assert held_out_seen(experiment, seen_by(experiment.teachers[0])) == {"val": 0, "test": 0}


def test_a_teacher_trained_on_val_is_logged(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    dataset = read_json(teacher.params)["dataset"] | {"val_size": 50}  # ten more than the teacher
    student = make_folder(tmp_path / "run", dataset=dataset, teacher=str(teacher.path), loss={"kd": {}}, num_epochs=1)
    expected = "has seen 10 of the 50 images of val in training: accuracy on val flatters"
    assert expected in call(train.main, "--model_dir", student.path, "--dry_run").out
    Experiment(student.path, runtime).train()
    assert f"teacher {teacher.name} {expected}" in student.log.read_text()
    assert student.read_run()["seen"] == {teacher.name: {"val": 10, "test": 0}}


def test_untrained_teacher_with_no_train_teacher_is_an_error(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher")
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    before = snapshot(tmp_path)
    result = call(train.main, "--model_dir", student.path, "--no_train_teacher")
    assert result.status == 2
    assert f"{teacher.name} is not trained (its run is new)" in result.err
    assert snapshot(tmp_path) == before


def test_folder_with_weights_but_no_run_is_a_trained_teacher(
    teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    by_hand = make_folder(tmp_path / "by_hand", student={"name": "cnn", "num_channels": 6})
    shutil.copy(teacher.checkpoint("best"), by_hand.checkpoint("best"))
    student = make_folder(tmp_path / "student", teacher=str(by_hand.path), loss={"kd": {}}, num_epochs=1)
    Experiment(student.path, runtime).train(train_teachers=False)
    assert student.state() == "finished"
    assert not by_hand.run.exists()


@pytest.mark.parametrize("loss", [{"kd": {"alpha": 0}}, {"ce": {}, "kd": {"weight": 0}}])
def test_teacher_that_no_term_uses_is_neither_trained_nor_run(
    loss: dict[str, Any], make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    teacher = make_folder(tmp_path / "teacher")
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss=loss, num_epochs=1)
    Experiment(student.path, runtime).train()
    assert teacher.state() == "new"
    assert trainer_of(student, runtime).teacher is None


def test_student_does_not_share_memory_with_a_teacher_of_the_same_network(
    distilled: Folder, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(
        tmp_path / "run",
        student={"name": "cnn", "num_channels": 6},
        teacher={"model_dir": str(teacher.path), "cache": False},
        loss={"kd": {}},
    )
    trainer = trainer_of(folder, runtime)
    assert isinstance(trainer.teacher, LiveTeacher)
    assert not storage_addresses(trainer.student) & storage_addresses(trainer.teacher.net)


def storage_addresses(net: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}


def test_teacher_has_the_network_and_best_weights_of_its_folder(
    distilled: Folder, teacher: Folder, runtime: Runtime
) -> None:
    net = trainer_of(distilled, runtime).teacher.live.net  # type: ignore[union-attr]
    assert weights_digest(net.state_dict()) == weights_digest(load_checkpoint(teacher.checkpoint("best"))["state_dict"])


def test_list_of_folders_is_an_ensemble_in_the_same_order(
    distilled: Folder, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", teacher=[str(teacher.path), str(distilled.path)], loss={"kd": {}})
    ensemble = trainer_of(folder, runtime).teacher
    assert isinstance(ensemble, EnsembleTeacher)
    digests = [weights_digest(member.live.net.state_dict()) for member in ensemble.members]  # type: ignore[attr-defined]
    assert digests == [member.read_run()["weights_digest"] for member in (teacher, distilled)]


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_combine_selects_the_mean_of_probabilities_or_logits(
    combine: str, distilled: Folder, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folders = [str(teacher.path), str(distilled.path)]
    teacher_params = {"model_dir": folders, "combine": combine, "cache": False}
    trainer = trainer_of(make_folder(tmp_path / "run", teacher=teacher_params, loss={"kd": {}}), runtime)
    assert isinstance(trainer.teacher, EnsembleTeacher)
    batch = next(iter(trainer.data.train_batches(0, 16)))
    logits = [member(batch).logits.double().numpy() for member in trainer.teacher.members]
    probabilities = [np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True) for logits_NK in logits]
    expected = np.log(np.mean(probabilities, axis=0)) if combine == "probabilities" else np.mean(logits, axis=0)
    np.testing.assert_allclose(trainer.teacher(batch).logits, expected, rtol=1e-4, atol=1e-5)


def test_ensemble_takes_the_mean_of_probabilities_by_default(
    distilled: Folder, teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", teacher=[str(teacher.path), str(distilled.path)], loss={"kd": {}})
    ensemble = trainer_of(folder, runtime).teacher
    assert isinstance(ensemble, EnsembleTeacher)
    assert ensemble.combine == "probabilities"


def test_waiting_for_a_teacher_trained_by_another_process_can_be_stopped(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher")
    teacher.update_run(state="running", process=4321, host="node7")
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})

    def stop_when_waiting() -> None:
        while not (student.log.exists() and "waiting for process 4321 on node7" in student.log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with (teacher.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would hold it
        threading.Thread(target=stop_when_waiting, daemon=True).start()
        assert call(train.main, "--model_dir", student.path).status == 75
    assert student.state() == "stopped"
    assert not teacher.checkpoint("last").exists()


@pytest.mark.parametrize(
    ("loss", "trained"),
    [
        ({"ab": {}}, {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "losses.ab.connectors"}),
        ({"ft": {"trains": "paraphraser"}}, {"losses.ft.paraphrasers", "losses.ft.decoders"}),
    ],
)
def test_a_first_stage_trains_only_parameters_with_a_gradient_of_its_loss(
    loss: dict[str, Any], trained: set[str], teacher: Folder, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", teacher=str(teacher.path), loss=loss, num_epochs=1)
    before = trainer_of(folder, runtime)
    Experiment(folder.path, runtime).train()
    after = load_checkpoint(folder.checkpoint("last"))
    moved, objective = set(), cast(nn.Module, before.objective)
    for module, state in ((before.student, after["state_dict"]), (objective, after["objective"])):
        for name, parameter in module.named_parameters():
            if not torch.equal(parameter, state[name]):
                moved.add(".".join(name.split(".")[: 3 if name.startswith("losses.") else 1]))
    assert moved == trained


# The dry run --------------------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing(make_folder: MakeFolder, tmp_path: Path, tiny_data: Path, call: Call) -> None:
    teacher = make_folder(tmp_path / "teacher")
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    before = (snapshot(tmp_path), snapshot(tiny_data.parent), sorted(tmp_path.rglob("*")))
    assert call(train.main, "--model_dir", student.path, "--dry_run").status == 0
    assert (snapshot(tmp_path), snapshot(tiny_data.parent), sorted(tmp_path.rglob("*"))) == before


def test_dry_run_prints_networks_data_steps_and_params(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "cnn", "num_channels": 6})
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    output = " ".join(call(train.main, "--model_dir", student.path, "--dry_run").out.split())
    macs = "multiply-accumulates an image"
    assert f"student cnn, {PARAMETERS_OF_4_CHANNELS:,} parameters, {MACS_OF_4_CHANNELS:,} {macs} teacher" in output
    assert f"cnn, {PARAMETERS_OF_6_CHANNELS:,} parameters, {MACS_OF_6_CHANNELS:,} {macs}, new" in output
    assert "data 200 train, 40 val, 60 test" in output
    assert "2 epochs of 13, 26 in all" in output
    assert f"first train {teacher.name}, about" in output
    assert '"temperature": 4.0' in output


def test_dry_run_prints_compared_maps_adapters_and_macs(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "cnn", "num_channels": 6})
    loss = {"kd": {}, "at": {"layers": [1, 2]}, "fitnet": {}}
    student = make_folder(tmp_path / "student", teacher=str(teacher.path), loss=loss)
    output = " ".join(call(train.main, "--model_dir", student.path, "--dry_run").out.split())
    assert "compared at: 4x4x4 with 6x4x4, 8x2x2 with 12x2x2" in output
    assert "compared fitnet: 8x2x2 with 12x2x2" in output
    parameters = 8 * 12 + 12 + 2 * 12  # a 1x1 convolution with bias, and its batch norm
    assert f"adapters fitnet: {parameters} parameters (regressors {parameters})" in output
    assert "adapters at" not in output
    macs = MACS_OF_4_CHANNELS + MACS_OF_6_CHANNELS + 4 * 8 * 12
    assert f"forward {macs:,} multiply-accumulates an image, teacher and loss terms included memory" in output


def test_dry_run_of_a_finished_folder_prints_its_state(distilled: Folder, call: Call) -> None:
    assert call(train.main, "--model_dir", distilled.path, "--dry_run").out.startswith(f"{distilled.name}: finished")


def test_search_checks_its_runs_with_the_given_data_folder(
    tiny_data: Path, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    dataset = {"name": "arrays", "path": tiny_data.name, "val_size": 40, "pad": 1}
    parent = make_folder(tmp_path / "search", dataset=dataset)
    (parent.path / "search.json").write_text('{"parameters": {"seed": [0, 1]}}')
    result = call(search_hyperparams.main, "--parent_dir", parent.path, "--data_dir", tiny_data.parent, "--dry_run")
    assert (result.status, result.err) == (0, "")


# Flat params.json of the original project ---------------------------------------------------------------------------

FLAT_PARAMS = {
    "model_version": "cnn",
    "subset_percent": 1.0,
    "augmentation": "yes",
    "teacher": "none",
    "alpha": 0.0,
    "temperature": 1,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "num_epochs": 1,
    "dropout_rate": 0.5,
    "num_channels": 4,
    "save_summary_steps": 100,
    "num_workers": 4,
}


def test_folders_with_flat_params_json_are_trained_unchanged(
    tiny_data: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.config.references.ROOT", tmp_path)
    monkeypatch.setitem(DATASETS._functions, "cifar10", lambda data_dir: arrays(data_dir, path=str(tiny_data)))
    without_later_keys = {
        key: value for key, value in FLAT_PARAMS.items() if key not in ("augmentation", "subset_percent")
    }
    files = {
        "experiments/base_resnet18": FLAT_PARAMS,
        "experiments/cnn_distill": without_later_keys
        | {"model_version": "cnn_distill", "teacher": "resnet18", "alpha": 0.9, "temperature": 20},
    }
    for name, content in files.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "params.json").write_text(json.dumps(content))
    student = Folder(tmp_path / "experiments/cnn_distill")
    Experiment(student.path, runtime).train()
    assert student.state() == "finished"
    assert read_json(student.params) == files["experiments/cnn_distill"]  # never rewritten
    assert Folder(tmp_path / "experiments/base_resnet18").state() == "finished"
    assert read_json(student.resolved)["loss"]["kd"]["reduction"] == "mean"
