"""Born-again networks: a folder of generations, each of which is an ordinary run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import train
from model.build.weights import weights_digest
from model.config.folder import Folder
from model.config.generations import prepare_generations
from model.files import read_json
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

BORN_AGAIN: dict[str, Any] = {"generations": 3, "loss": {"kd": {}, "ce": {}}, "num_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder) -> Folder:
    return make_folder(tmp_path_factory.mktemp("generations") / "run", **BORN_AGAIN, seed=7)


@pytest.fixture
def parent(trained: Folder, call: Call) -> Folder:
    """A folder whose generations are all trained, by the first test that uses it."""
    assert call(train.main, "--model_dir", trained.path).status == 0
    return trained


def child(folder: Folder, number: int) -> Folder:
    return Folder(folder.path / f"gen_{number}")


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder.checkpoint("best"))["state_dict"]
    return state


def change(folder: Folder, **changes: Any) -> None:
    folder.params.write_text(json.dumps(read_json(folder.params) | changes))


def test_every_generation_is_a_finished_run_of_its_own(parent: Folder) -> None:
    assert [child(parent, number).state() for number in range(3)] == ["finished"] * 3
    assert parent.state() == "finished"
    assert not child(parent, 3).path.exists()


def test_params_with_nulls_make_the_same_generations(tmp_path: Path, make_folder: MakeFolder) -> None:
    short = make_folder(tmp_path / "short", **BORN_AGAIN)
    long = make_folder(tmp_path / "long", **BORN_AGAIN, teacher=None, init=None, gradient_clip=None)
    nulls = {"teacher": None, "init": None, "gradient_clip": None}
    for number, (before, after) in enumerate(zip(prepare_generations(short), prepare_generations(long), strict=True)):
        expected = nulls | read_json(before.params)
        assert read_json(after.params) == expected, number


def test_a_generation_whose_params_json_was_damaged_gets_it_again(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN)
    (_, second, _) = prepare_generations(folder)
    before = second.params.read_text()
    second.params.write_bytes(b"")
    prepare_generations(folder)
    assert second.params.read_text() == before


def test_first_generation_learns_from_labels_alone(parent: Folder) -> None:
    params = read_json(child(parent, 0).params)
    assert params["loss"] == {"ce": {}}
    assert "teacher" not in params
    assert "teacher" not in child(parent, 0).read_run()


def test_each_later_generation_learns_from_the_previous_one(parent: Folder) -> None:
    for number in (1, 2):
        previous = child(parent, number - 1)
        assert read_json(child(parent, number).params)["loss"] == {"kd": {}, "ce": {}}
        assert child(parent, number).read_run()["teacher"] == {previous.name: weights_digest(weights(previous))}


def test_every_generation_has_a_seed_of_its_own(parent: Folder) -> None:
    assert [read_json(child(parent, number).params)["seed"] for number in range(3)] == [7, 8, 9]


def test_params_of_a_generation_have_no_key_generations(parent: Folder) -> None:
    assert all("generations" not in read_json(child(parent, number).params) for number in range(3))


def test_finished_generations_are_not_trained_again(parent: Folder, call: Call) -> None:
    before = [weights_digest(weights(child(parent, number))) for number in range(3)]
    result = call(train.main, "--model_dir", parent.path)
    assert (result.status, "is finished: 3 generations" in result.err) == (0, True)
    assert [weights_digest(weights(child(parent, number))) for number in range(3)] == before


def test_first_generation_learns_from_a_teacher_if_one_is_named(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    make_folder(tmp_path / "teacher", num_epochs=1)
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2}, teacher="../teacher")
    assert call(train.main, "--model_dir", folder.path).status == 0
    teachers = [list(child(folder, number).read_run()["teacher"]) for number in range(2)]
    assert [Path(names[0]).name for names in teachers] == ["teacher", "gen_0"]


@pytest.mark.parametrize("stop_at", [3, 13 + 3], ids=["in the first generation", "in the second"])
def test_same_command_resumes_after_a_stop(
    stop_at: int, make_folder: MakeFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BORN_AGAIN | {"generations": 2}
    uninterrupted, stopped = (make_folder(tmp_path / name, **options) for name in ("uninterrupted", "stopped"))
    assert call(train.main, "--model_dir", uninterrupted.path).status == 0
    take_step, steps_taken = Trainer.take_step, []

    def step_and_signal(trainer: Trainer, batch: Any) -> None:
        take_step(trainer, batch)
        steps_taken.append(trainer.step)
        if len(steps_taken) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "take_step", step_and_signal)
    assert call(train.main, "--model_dir", stopped.path).status == 75
    assert stopped.state() == "stopped"
    assert call(train.main, "--model_dir", stopped.path).status == 0
    for number in range(2):
        assert weights_digest(weights(child(stopped, number))) == weights_digest(weights(child(uninterrupted, number)))


def test_restart_trains_all_generations_again(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2})
    call(train.main, "--model_dir", folder.path)
    processes = [child(folder, number).read_run()["process"] for number in range(2)]
    for number in range(2):
        child(folder, number).update_run(process=-1)
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    assert [child(folder, number).read_run()["process"] for number in range(2)] == processes


# User errors --------------------------------------------------------------------------------------------------------


def test_generation_that_was_changed_by_hand_is_refused(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2})
    call(train.main, "--model_dir", folder.path)
    change(child(folder, 1), num_epochs=2)
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert str(child(folder, 1).params) in result.err


def test_loss_without_a_teacher_is_refused(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"loss": {"ce": {}}})
    result = call(train.main, "--model_dir", folder.path)
    assert (result.status, "generations: no loss term needs a teacher" in result.err) == (2, True)
    assert not child(folder, 0).path.exists()


def test_one_generation_is_refused(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    result = call(train.main, "--model_dir", make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 1}).path)
    assert (result.status, "generations" in result.err) == (2, True)


def test_folder_of_generations_is_refused_as_a_teacher_but_a_generation_is_not(
    parent: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    student = make_folder(tmp_path / "student", teacher=str(parent.path), loss={"kd": {}}, num_epochs=1)
    result = call(train.main, "--model_dir", student.path)
    assert (result.status, "holds 3 generations; name one" in result.err) == (2, True)
    change(student, teacher=str(child(parent, 2).path))
    assert call(train.main, "--model_dir", student.path).status == 0


# Evaluation ---------------------------------------------------------------------------------------------------------


def evaluation_arrays(folder: Folder, call: Call) -> dict[str, np.ndarray[Any, Any]]:
    call(evaluate.main, "--model_dir", folder.path)
    with np.load(folder.evaluation / "test_best.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_ensembles_are_of_the_first_generations(combine: str, parent: Folder, call: Call) -> None:
    assert call(evaluate.main, "--model_dir", parent.path, "--ensemble", combine).status == 0
    metrics = read_json(parent.evaluation / f"test_best_{combine}.json")
    arrays = [evaluation_arrays(child(parent, number), call) for number in range(3)]
    scores = [row["probabilities"] if combine == "probabilities" else np.log(row["probabilities"]) for row in arrays]
    for count in (1, 2, 3):
        correct = np.mean(scores[:count], axis=0).argmax(axis=1) == arrays[0]["labels"]
        assert metrics["ensemble_accuracy"][count - 1] == pytest.approx(correct.mean())
    assert [row["accuracy"] for row in metrics["generations"]] == [row["correct"].mean() for row in arrays]


def test_evaluation_has_a_row_for_every_generation(parent: Folder, call: Call) -> None:
    output = call(evaluate.main, "--model_dir", parent.path).out
    assert all(f"| gen_{number} " in output for number in range(3))
    assert "0 + 1 + 2" in output
