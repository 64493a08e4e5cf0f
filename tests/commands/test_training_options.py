"""Options of training in params.json, from the folder to its results: dry run, resume, mistakes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.trainer import build_trainer
from model.build.weights import weights_digest
from model.commands.preflight import preflight
from model.config.folder import Folder
from model.files import read_json
from model.report.dataframe import results
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

# 200 training images in batches of 16: 13 batches an epoch.
OPTIONS: dict[str, dict[str, Any]] = {
    "accumulate": {"accumulate": 3},
    "ema": {"ema": {"decay": 0.9, "warmup": True}, "accumulate": 2, "freeze": ["conv1"]},
    "early_stopping": {
        "early_stopping": {"metric": "loss_ce", "patience": 2, "min_improvement": 10.0},
        "num_epochs": 8,
    },
    "freeze": {"freeze": ["conv1", "bn1"]},
    "rates": {
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "layer_decay": 0.8,
            "classifier_learning_rate": 0.05,
            "decay_norms_and_biases": False,
        },
    },
}
PARAMETERS = 112 + 8 + 296 + 16 + 1168 + 32 + 272 + 32 + 170  # of the CNN: see test_train.py
REST = ["conv2", "bn2", "conv3", "bn3", "fc1", "fcbn1", "fc2"]


def state_of(folder: Folder, key: str = "state_dict") -> dict[str, Any]:
    state: dict[str, Any] = load_checkpoint(folder.checkpoint("last"))[key]
    return state


def train_with_signal_at(step: int, folder: Folder, call: Call) -> None:
    """Stop a run after a step."""
    take_step = Trainer.take_step

    def step_and_signal(trainer: Trainer, *batches: Any) -> None:
        take_step(trainer, *batches)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", step_and_signal)
        assert call(train.main, "--model_dir", folder.path).status == 75
    assert load_checkpoint(folder.checkpoint("last"))["step"] == step


def assert_equal(one: Any, other: Any) -> None:
    """Equal objects of a checkpoint: tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other


@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    name: str, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folders = [make_folder(tmp_path / each, **OPTIONS[name]) for each in ("uninterrupted", "interrupted")]
    train_with_signal_at(7, folders[1], call)
    for folder in folders:
        Experiment(folder.path, runtime).train()
    for weights in ("best", "last", *(["ema"] if "ema" in OPTIONS[name] else [])):
        one, other = (load_checkpoint(folder.path / f"{weights}.pth.tar") for folder in folders)
        assert_equal({**one, "seconds": 0}, {**other, "seconds": 0})


# Accumulated gradients ------------------------------------------------------------------------------------------------


def test_steps_of_accumulated_batches_are_shown(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", accumulate=4)
    assert (
        "steps     2 epochs of 4, 8 in all, each of 4 batches"
        in call(train.main, "--model_dir", folder.path, "--dry_run").out
    )
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert "2 epochs of 4 steps, batch size 4 x 16, " in folder.log.read_text()
    assert load_checkpoint(folder.checkpoint("last"))["step"] == 8


# Frozen modules -------------------------------------------------------------------------------------------------------


def test_frozen_modules_keep_weights_and_statistics(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    first = make_folder(tmp_path / "first", num_epochs=1)
    folder = make_folder(tmp_path / "run", init="../first", freeze=["conv1", "bn1"])
    line = call(train.main, "--model_dir", folder.path, "--dry_run").out
    assert f"trained   {PARAMETERS - 112 - 8:,} of {PARAMETERS:,} parameters" in line
    Experiment(folder.path, runtime).train()
    before, after = state_of(first), state_of(folder)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {name for name in before if name.startswith(("conv1.", "bn1."))}
    assert f"{PARAMETERS - 112 - 8:,} of {PARAMETERS:,} parameters are trained" in folder.log.read_text()


def test_only_the_classifier_is_trained(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path) -> None:
    first = make_folder(tmp_path / "first", num_epochs=1)
    folder = make_folder(tmp_path / "run", init="../first", freeze="all_but_classifier")
    Experiment(folder.path, runtime).train()
    before, after = state_of(first), state_of(folder)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc2.weight", "fc2.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ["conf1"]}, 'freeze: the student has no module "conf1", did you mean "conv1"?; it has conv1, '),
        ({"freeze": ["conv1", "bn1", *REST]}, "freeze: leaves no parameter of the student to train"),
        ({"freeze": "conv1"}, "freeze: should be a valid list or 'all_but_classifier', got \"conv1\""),
        (
            {"early_stopping": {"metric": "val_acuracy"}},
            'early_stopping.metric: no "val_acuracy" is measured, did you mean "val_accuracy"?; known: val_accuracy, ',
        ),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience: should be greater than or equal to 1, got 0"),
        ({"ema": 1.0}, "ema: should be less than 1, got 1.0"),
        ({"ema": "yes"}, 'ema: should be a number, or an object with "decay", got "yes"'),
        ({"accumulate": 0}, "accumulate: should be greater than or equal to 1, got 0"),
        ({"optimizer": {"name": "sgd", "layer_decay": 0}}, "optimizer: layer_decay must be above 0 and at most 1, got"),
        (
            {"optimizer": {"name": "sgd", "classifier_learning_rate": 0.1}, "freeze": ["fc2"]},
            "optimizer: classifier_learning_rate is for a classifier that is one linear layer, and trained",
        ),
    ],
)
def test_a_mistake_is_one_line(
    changes: dict[str, Any], message: str, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", **changes)
    result = call(train.main, "--model_dir", folder.path)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert message in result.err
    assert [path.name for path in folder.path.iterdir()] == ["params.json"]


def test_terms_that_read_only_frozen_modules_are_a_mistake(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    teacher = make_folder(tmp_path / "teacher", num_epochs=1)
    changes = {"teacher": str(teacher.path), "loss": {"at": {}}, "freeze": "all_but_classifier"}
    result = call(train.main, "--model_dir", make_folder(tmp_path / "run", **changes).path)
    assert result.status == 2
    assert "freeze: no loss term depends on what is left to train" in result.err.splitlines()[-1]


# Learning rates -------------------------------------------------------------------------------------------------------


def test_layers_have_rates_by_depth_and_the_classifier_its_own(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", **OPTIONS["rates"])
    trainer = build_trainer(preflight(Experiment(folder.path)), None)
    names = {id(parameter): name for name, parameter in trainer.student.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    assert found["conv1.weight"] == (pytest.approx(0.01 * 0.8**4), 0.1)
    assert found["bn1.weight"] == found["conv1.bias"] == (pytest.approx(0.01 * 0.8**4), 0.0)
    assert found["fc1.weight"] == (pytest.approx(0.01 * 0.8), 0.1)
    assert (found["fc2.weight"], found["fc2.bias"]) == ((0.05, 0.1), (0.05, 0.0))
    assert found.keys() == dict(trainer.student.named_parameters()).keys()
    assert len(trainer.optimizer.param_groups) == 2 * 5


# Early stopping -------------------------------------------------------------------------------------------------------


def test_a_run_that_stops_early_is_finished(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", **OPTIONS["early_stopping"])
    plan = call(train.main, "--model_dir", folder.path, "--dry_run").out
    assert "at most: ends after 2 epochs in which loss_ce does not improve" in plan
    Experiment(folder.path, runtime).train()
    run = folder.read_run()
    assert (folder.state(), run["epoch"], run["num_epochs"], run["progress"]) == ("finished", 3, 8, 1.0)
    assert run["stopped_early"].startswith("epoch 3: loss_ce has not improved since epoch 1, where it was ")
    assert "stopped early after epoch 3: loss_ce has not improved since epoch 1" in folder.log.read_text()
    assert read_json(folder.metrics("test", "last"))["epoch"] == 3
    assert len(folder.read_history()) == 3
    assert "is finished: val accuracy" in call(train.main, "--model_dir", folder.path).err


def test_early_stopping_needs_val(make_folder: MakeFolder, tiny_data: Path, tmp_path: Path, call: Call) -> None:
    dataset = {"name": "arrays", "path": str(tiny_data), "val_size": 0}
    result = call(train.main, "--model_dir", make_folder(tmp_path / "run", dataset=dataset, early_stopping={}).path)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "early_stopping: needs val, and dataset.val_size is 0" in result.err


# Averaged weights -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A finished run with averaged weights."""
    folder = make_folder(tmp_path_factory.mktemp("averaged") / "run", ema=0.9)
    Experiment(folder.path, runtime).train()
    return folder


def test_averaged_weights_are_a_third_kind(averaged: Folder, runtime: Runtime, call: Call) -> None:
    state = load_checkpoint(averaged.checkpoint("ema"))["state_dict"]
    assert_equal(state, Experiment(averaged.path, runtime).load("ema").state_dict())
    assert {path.name for path in averaged.path.iterdir() if "ema" in path.name} == {
        "ema.pth.tar",
        "metrics_val_ema_weights.json",
        "metrics_test_ema_weights.json",
    }
    assert "averaged weights: val accuracy" in averaged.log.read_text()
    test = read_json(averaged.metrics("test", "ema"))
    assert call(evaluate.main, "--model_dir", averaged.path, "--restore_file", "ema", "--device", "cpu").status == 0
    assert read_json(averaged.evaluation / "test_ema.json")["accuracy"] == test["accuracy"]
    assert test["epoch"] == read_json(averaged.metrics("val", "ema"))["epoch"]


def test_averaged_weights_teach_and_initialize(averaged: Folder, make_folder: MakeFolder, runtime: Runtime) -> None:
    named = {"model_dir": str(averaged.path), "weights": "ema"}
    digest = weights_digest(load_checkpoint(averaged.checkpoint("ema"))["state_dict"])
    changes = {"teacher": named, "init": named, "loss": {"kd": {}}, "num_epochs": 1}
    folder = make_folder(averaged.path.parent / "student", **changes)
    Experiment(folder.path, runtime).train()
    assert folder.read_run()["teacher"] == folder.read_run()["init"] == {averaged.name: digest}


def test_tables_have_averaged_weights_where_a_run_has_them(averaged: Folder, make_folder: MakeFolder) -> None:
    other = make_folder(averaged.path.parent.parent / "other" / "run")
    other.metrics("test", "best").write_text('{"accuracy": 0.5}')
    columns = results(averaged.path).columns
    assert [name for name in columns if "_ema_accuracy" in name] == ["val_ema_accuracy", "test_ema_accuracy"]
    assert not [name for name in results(other.path).columns if "_ema_" in name]


def test_restart_removes_averaged_weights(averaged: Folder, runtime: Runtime, tmp_path: Path) -> None:
    folder = Folder(shutil.copytree(averaged.path, tmp_path / "copy"))
    folder.params.write_text(folder.params.read_text().replace('"ema": 0.9', '"seed": 1'))
    Experiment(folder.path, runtime).train(restart=True)
    assert not [path.name for path in folder.path.iterdir() if "ema" in path.name]


def test_averaged_weights_of_a_folder_that_averages_none_are_a_mistake(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher")
    named = {"model_dir": str(teacher.path), "weights": "ema"}
    result = call(train.main, "--model_dir", make_folder(tmp_path / "run", teacher=named, loss={"kd": {}}).path)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert f"teacher.weights: {teacher.name} averages no weights: it has no ema" in result.err
