"""Born-again networks: a folder of generations, each an ordinary run."""

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
from model.files import read_json
from model.training.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.conftest import Call, MakeFolder

BORN_AGAIN: dict[str, Any] = {"generations": 3, "loss": {"kd": {}, "ce": {}}, "num_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder) -> Folder:
    return make_folder(tmp_path_factory.mktemp("generations") / "run", **BORN_AGAIN, seed=7)


@pytest.fixture
def family(trained: Folder, call: Call) -> Folder:
    """A folder whose generations are all trained; the first test that asks trains them."""
    assert call(train.main, "--model_dir", trained.path).status == 0
    return trained


def child(folder: Folder, number: int) -> Folder:
    return Folder(folder.path / f"gen_{number}")


def weights(folder: Folder) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder.checkpoint("best"))["state_dict"]
    return state


def change(folder: Folder, **changes: Any) -> None:
    folder.params.write_text(json.dumps(read_json(folder.params) | changes))


def test_every_generation_is_a_finished_run_of_its_own(family: Folder) -> None:
    assert [child(family, number).state() for number in range(3)] == ["finished"] * 3
    assert family.state() == "finished"
    assert not child(family, 3).path.exists()


def test_first_generation_learns_from_labels_alone(family: Folder) -> None:
    params = read_json(child(family, 0).params)
    assert params["loss"] == {"ce": {}}
    assert "teacher" not in params
    assert "teacher" not in child(family, 0).read_run()


def test_each_other_generation_learns_from_the_one_before(family: Folder) -> None:
    for number in (1, 2):
        before = child(family, number - 1)
        assert read_json(child(family, number).params)["loss"] == {"kd": {}, "ce": {}}
        assert child(family, number).read_run()["teacher"] == {before.name: weights_digest(weights(before))}


def test_generations_have_seeds_of_their_own(family: Folder) -> None:
    assert [read_json(child(family, number).params)["seed"] for number in range(3)] == [7, 8, 9]


def test_generations_say_nothing_of_generations(family: Folder) -> None:
    assert all("generations" not in read_json(child(family, number).params) for number in range(3))


def test_finished_family_is_left_alone(family: Folder, call: Call) -> None:
    before = [weights_digest(weights(child(family, number))) for number in range(3)]
    ended = call(train.main, "--model_dir", family.path)
    assert (ended.status, "is finished: 3 generations" in ended.err) == (0, True)
    assert [weights_digest(weights(child(family, number))) for number in range(3)] == before


def test_first_generation_learns_from_a_teacher_where_one_is_named(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    make_folder(tmp_path / "teacher", num_epochs=1)
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2}, teacher="../teacher")
    assert call(train.main, "--model_dir", folder.path).status == 0
    teachers = [list(child(folder, number).read_run()["teacher"]) for number in range(2)]
    assert [Path(names[0]).name for names in teachers] == ["teacher", "gen_0"]


@pytest.mark.parametrize("stop_at", [3, 13 + 3], ids=["in the first generation", "in the second"])
def test_same_command_goes_on_after_a_stop(
    stop_at: int, make_folder: MakeFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BORN_AGAIN | {"generations": 2}
    through, stopped = (make_folder(tmp_path / name, **options) for name in ("through", "stopped"))
    assert call(train.main, "--model_dir", through.path).status == 0
    take_step, steps = Trainer.take_step, []

    def and_signal(trainer: Trainer, batch: Any) -> None:
        take_step(trainer, batch)
        steps.append(trainer.step)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "take_step", and_signal)
    assert call(train.main, "--model_dir", stopped.path).status == 75
    assert stopped.state() == "stopped"
    assert call(train.main, "--model_dir", stopped.path).status == 0
    for number in range(2):
        assert weights_digest(weights(child(stopped, number))) == weights_digest(weights(child(through, number)))


def test_restart_trains_all_generations_anew(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2})
    call(train.main, "--model_dir", folder.path)
    began = [child(folder, number).read_run()["process"] for number in range(2)]
    for number in range(2):
        child(folder, number).update_run(process=-1)
    assert call(train.main, "--model_dir", folder.path, "--restart").status == 0
    assert [child(folder, number).read_run()["process"] for number in range(2)] == began


# Mistakes -----------------------------------------------------------------------------------------------------------


def test_generation_that_was_changed_by_hand_is_refused(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 2})
    call(train.main, "--model_dir", folder.path)
    change(child(folder, 1), num_epochs=2)
    ended = call(train.main, "--model_dir", folder.path)
    assert ended.status == 2
    assert str(child(folder, 1).params) in ended.err


def test_loss_that_asks_no_teacher_makes_no_generations(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "run", **BORN_AGAIN | {"loss": {"ce": {}}})
    ended = call(train.main, "--model_dir", folder.path)
    assert (ended.status, "generations: no loss term needs a teacher" in ended.err) == (2, True)
    assert not child(folder, 0).path.exists()


def test_one_generation_is_refused(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    ended = call(train.main, "--model_dir", make_folder(tmp_path / "run", **BORN_AGAIN | {"generations": 1}).path)
    assert (ended.status, "generations" in ended.err) == (2, True)


def test_family_is_no_teacher_but_its_members_are(
    family: Folder, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    student = make_folder(tmp_path / "student", teacher=str(family.path), loss={"kd": {}}, num_epochs=1)
    ended = call(train.main, "--model_dir", student.path)
    assert (ended.status, "holds 3 generations; name one" in ended.err) == (2, True)
    change(student, teacher=str(child(family, 2).path))
    assert call(train.main, "--model_dir", student.path).status == 0


# Evaluation ---------------------------------------------------------------------------------------------------------


def said_by(folder: Folder, call: Call) -> dict[str, np.ndarray[Any, Any]]:
    call(evaluate.main, "--model_dir", folder.path)
    with np.load(folder.evaluation / "test_best.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_ensembles_grow_by_a_generation_at_a_time(mean: str, family: Folder, call: Call) -> None:
    assert call(evaluate.main, "--model_dir", family.path, "--ensemble", mean).status == 0
    found = read_json(family.evaluation / f"test_best_{mean}.json")
    said = [said_by(child(family, number), call) for number in range(3)]
    scores = [each["probabilities"] if mean == "probabilities" else np.log(each["probabilities"]) for each in said]
    for count in (1, 2, 3):
        right = np.mean(scores[:count], axis=0).argmax(axis=1) == said[0]["labels"]
        assert found["ensemble_accuracy"][count - 1] == pytest.approx(right.mean())
    assert [each["accuracy"] for each in found["generations"]] == [each["correct"].mean() for each in said]


def test_evaluation_has_a_row_for_every_generation(family: Folder, call: Call) -> None:
    page = call(evaluate.main, "--model_dir", family.path).out
    assert all(f"| gen_{number} " in page for number in range(3))
    assert "0 + 1 + 2" in page
