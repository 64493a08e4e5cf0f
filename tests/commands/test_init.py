"""Runs whose params.json has `init`: they start from the weights of another folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import search_hyperparams
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer
from model.build.weights import weights_digest
from model.commands.preflight import preflight
from model.commands.train import start_from_init
from model.config.folder import Folder
from model.files import read_json
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

HINT = {"fitnet": {"layers": [1]}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    folder = make_folder(tmp_path_factory.mktemp("init") / "teacher", student={"name": "cnn", "num_channels": 6})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture(scope="module")
def first(teacher: Folder, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    """A first stage that is trained with the hint loss only."""
    folder = make_folder(teacher.path.parent / "first", teacher=str(teacher.path), loss=HINT)
    Experiment(folder.path, runtime).train()
    return folder


def state(folder: Folder, weights: Any = "last") -> dict[str, Tensor]:
    state_dict: dict[str, Tensor] = load_checkpoint(folder.checkpoint(weights))["state_dict"]
    return state_dict


def build_initialized_trainer(folder: Folder, runtime: Runtime) -> Trainer:
    experiment = preflight(Experiment(folder.path, runtime))
    trainer = build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))
    start_from_init(experiment, trainer, experiment.init_source())
    return trainer


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("init", "weights"),
    [("../first", "last"), ({"model_dir": "../first"}, "last"), ({"model_dir": "../first", "weights": "best"}, "best")],
)
def test_run_starts_from_the_named_weights(
    first: Folder, make_folder: MakeFolder, runtime: Runtime, init: Any, weights: Any
) -> None:
    trainer = build_initialized_trainer(make_folder(first.path.parent / "second", init=init), runtime)
    assert equal(trainer.student.state_dict(), state(first, weights))


def test_without_init_weights_are_random(first: Folder, make_folder: MakeFolder, runtime: Runtime) -> None:
    trainer = build_initialized_trainer(make_folder(first.path.parent / "second"), runtime)
    assert not equal(trainer.student.state_dict(), state(first))


def test_parameters_of_a_loss_that_both_folders_have_are_loaded(
    first: Folder, make_folder: MakeFolder, runtime: Runtime
) -> None:
    both = {"teacher": "../teacher", "loss": {"ce": {}, **HINT}}
    learned = {
        key: value for key, value in load_checkpoint(first.checkpoint("last"))["objective"].items() if "fitnet" in key
    }
    assert learned
    from_last = build_initialized_trainer(make_folder(first.path.parent / "second", init="../first", **both), runtime)
    assert equal(from_last.objective.state_dict(), learned)
    init = {"model_dir": "../first", "weights": "best"}
    from_best = build_initialized_trainer(make_folder(first.path.parent / "second", init=init, **both), runtime)
    assert not equal(from_best.objective.state_dict(), learned)


def test_a_loss_with_parameters_of_other_shapes_is_refused(first: Folder, make_folder: MakeFolder, call: Call) -> None:
    loss = {"ce": {}, "fitnet": {"layers": [2]}}
    folder = make_folder(first.path.parent / "third", init="../first", teacher="../teacher", loss=loss)
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    problem = "regressors.0.0.weight has shape (6, 4, 1, 1), the network (12, 8, 1, 1)"
    message = f"{first.checkpoint('last')}: the loss fitnet has other parameters in this file: {problem}"
    assert result.err.strip().endswith(message)


def test_init_folder_is_trained_first_and_recorded(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    first = make_folder(tmp_path / "first", num_epochs=1)
    second = make_folder(tmp_path / "second", init="../first", num_epochs=1)
    refused = call(train.main, "--model_dir", second.path, "--no_train_teacher")
    assert refused.status == 2
    assert f"init: {first.name} is not trained (its run is new)" in refused.err
    output = call(train.main, "--model_dir", second.path, "--dry_run").out
    assert f"init      the last weights of {first.name}, new" in output
    assert f"first     train {first.name}" in output
    assert call(train.main, "--model_dir", second.path).status == 0
    assert f"its init {first.name} is not trained: it is trained first" in second.log.read_text()
    assert second.read_run()["init"] == {first.name: weights_digest(state(first))}


def test_a_resumed_run_is_not_initialized_again(
    first: Folder, make_folder: MakeFolder, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    uninterrupted = make_folder(first.path.parent / "uninterrupted", init="../first")
    interrupted = make_folder(first.path.parent / "interrupted", init="../first")
    Experiment(uninterrupted.path, runtime).train()
    take_step = Trainer.take_step

    def step_and_stop(trainer: Trainer, batch: Any) -> None:
        take_step(trainer, batch)
        if trainer.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "take_step", step_and_stop)
    assert call(train.main, "--model_dir", interrupted.path).status == 75
    monkeypatch.undo()
    Experiment(interrupted.path, runtime).train()
    assert equal(state(interrupted), state(uninterrupted))


@pytest.mark.usefixtures("in_process_executor")
def test_a_search_trains_the_init_folder_once(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "first", num_epochs=1)
    parent = make_folder(tmp_path / "search", init="../first", num_epochs=1)
    (parent.path / "search.json").write_text(json.dumps({"parameters": {"seed": [0, 1]}}))
    assert "to be trained first: " in call(search_hyperparams.main, "--parent_dir", parent.path, "--dry_run").out
    assert read_json(parent.params)["init"] == "../first"
    result = call(search_hyperparams.main, "--parent_dir", parent.path)
    assert result.status == 0, result.err
    for seed in (0, 1):
        assert read_json(parent.path / f"seed_{seed}" / "params.json")["init"] == "../../first"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "../nowhere"}, 'init: no folder "../nowhere"'),
        ({"init": "../second"}, "init: a cycle: "),
        ({"init": 3}, 'init: should be a folder, or an object with "model_dir", got 3'),
        ({"init": {"model_dir": "../first", "weight": "best"}}, 'init.weight: unknown key, did you mean "weights"?'),
        (
            {"init": "../first", "student": {"name": "cnn", "num_channels": 5}},
            "conv1.weight has shape (4, 3, 3, 3), the network (5, 3, 3, 3)",
        ),
        ({"init": "../first", "generations": 2}, "init: every generation begins with fresh weights"),
    ],
)
def test_user_errors_are_one_line(
    first: Folder, make_folder: MakeFolder, call: Call, changes: dict[str, Any], message: str
) -> None:
    result = call(train.main, "--model_dir", make_folder(first.path.parent / "second", **changes).path)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_missing_weights_are_named(first: Folder, make_folder: MakeFolder, call: Call, tmp_path: Path) -> None:
    by_hand = make_folder(tmp_path / "by_hand")
    by_hand.checkpoint("best").write_bytes(first.checkpoint("best").read_bytes())
    result = call(train.main, "--model_dir", make_folder(tmp_path / "second", init="../by_hand").path)
    assert result.status == 2
    assert str(by_hand.checkpoint("last")) in result.err
