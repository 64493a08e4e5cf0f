"""A run that starts from the weights of another folder."""

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
    """A first stage that learns the hint alone."""
    folder = make_folder(teacher.path.parent / "first", teacher=str(teacher.path), loss=HINT)
    Experiment(folder.path, runtime).train()
    return folder


def state(folder: Folder, weights: Any = "last") -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(folder.checkpoint(weights))["state_dict"]
    return found


def at_the_start(folder: Folder, runtime: Runtime) -> Trainer:
    experiment = preflight(Experiment(folder.path, runtime))
    trainer = build_trainer(experiment, build_teacher(experiment, read_teacher_weights(experiment)))
    start_from_init(experiment, trainer)
    return trainer


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("init", "weights"),
    [("../first", "last"), ({"model_dir": "../first"}, "last"), ({"model_dir": "../first", "weights": "best"}, "best")],
)
def test_run_starts_from_the_weights_that_are_named(
    first: Folder, make_folder: MakeFolder, runtime: Runtime, init: Any, weights: Any
) -> None:
    trainer = at_the_start(make_folder(first.path.parent / "second", init=init), runtime)
    assert same(trainer.student.state_dict(), state(first, weights))


def test_without_it_weights_are_fresh(first: Folder, make_folder: MakeFolder, runtime: Runtime) -> None:
    trainer = at_the_start(make_folder(first.path.parent / "second"), runtime)
    assert not same(trainer.student.state_dict(), state(first))


def test_a_term_of_both_folders_goes_on_from_what_it_had_learned(
    first: Folder, make_folder: MakeFolder, runtime: Runtime
) -> None:
    both = {"teacher": "../teacher", "loss": {"ce": {}, **HINT}}
    learned = {
        key: value for key, value in load_checkpoint(first.checkpoint("last"))["objective"].items() if "fitnet" in key
    }
    assert learned
    from_last = at_the_start(make_folder(first.path.parent / "second", init="../first", **both), runtime)
    assert same(from_last.objective.state_dict(), learned)
    init = {"model_dir": "../first", "weights": "best"}
    from_best = at_the_start(make_folder(first.path.parent / "second", init=init, **both), runtime)
    assert not same(from_best.objective.state_dict(), learned)


def test_a_term_with_other_parameters_is_refused(first: Folder, make_folder: MakeFolder, call: Call) -> None:
    loss = {"ce": {}, "fitnet": {"layers": [2]}}
    folder = make_folder(first.path.parent / "third", init="../first", teacher="../teacher", loss=loss)
    ended = call(train.main, "--model_dir", folder.path)
    assert ended.status == 2
    problem = "regressors.0.0.weight has shape (6, 4, 1, 1), the network (12, 8, 1, 1)"
    told = f"{first.checkpoint('last')}: the loss fitnet has other parameters there: {problem}"
    assert ended.err.strip().endswith(told)


def test_folder_to_start_from_is_trained_first_and_noted(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    first = make_folder(tmp_path / "first", num_epochs=1)
    second = make_folder(tmp_path / "second", init="../first", num_epochs=1)
    refused = call(train.main, "--model_dir", second.path, "--no_train_teacher")
    assert refused.status == 2
    assert f"init: {first.name} is not trained (its run is new)" in refused.err
    told = call(train.main, "--model_dir", second.path, "--dry_run").out
    assert f"init      the last weights of {first.name}, new" in told
    assert f"first     {first.name} is trained" in told
    assert call(train.main, "--model_dir", second.path).status == 0
    assert f"its init {first.name} is not trained: it is trained first" in second.log.read_text()
    assert second.read_run()["init"] == {first.name: weights_digest(state(first))}


def test_a_run_that_goes_on_does_not_start_again(
    first: Folder, make_folder: MakeFolder, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    whole = make_folder(first.path.parent / "whole", init="../first")
    parts = make_folder(first.path.parent / "parts", init="../first")
    Experiment(whole.path, runtime).train()
    take_step = Trainer.take_step

    def and_stop(trainer: Trainer, batch: Any) -> None:
        take_step(trainer, batch)
        if trainer.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "take_step", and_stop)
    assert call(train.main, "--model_dir", parts.path).status == 75
    monkeypatch.undo()
    Experiment(parts.path, runtime).train()
    assert same(state(parts), state(whole))


@pytest.mark.usefixtures("in_process_executor")
def test_a_search_trains_it_once_and_its_runs_find_it(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "first", num_epochs=1)
    parent = make_folder(tmp_path / "search", init="../first", num_epochs=1)
    (parent.path / "search.json").write_text(json.dumps({"parameters": {"seed": [0, 1]}}))
    assert "to be trained first: " in call(search_hyperparams.main, "--parent_dir", parent.path, "--dry_run").out
    assert read_json(parent.params)["init"] == "../first"
    ended = call(search_hyperparams.main, "--parent_dir", parent.path)
    assert ended.status == 0, ended.err
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
def test_mistakes_are_one_line(
    first: Folder, make_folder: MakeFolder, call: Call, changes: dict[str, Any], message: str
) -> None:
    ended = call(train.main, "--model_dir", make_folder(first.path.parent / "second", **changes).path)
    assert ended.status == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_missing_weights_are_named(first: Folder, make_folder: MakeFolder, call: Call, tmp_path: Path) -> None:
    by_hand = make_folder(tmp_path / "by_hand")
    by_hand.checkpoint("best").write_bytes(first.checkpoint("best").read_bytes())
    ended = call(train.main, "--model_dir", make_folder(tmp_path / "second", init="../by_hand").path)
    assert ended.status == 2
    assert str(by_hand.checkpoint("last")) in ended.err
