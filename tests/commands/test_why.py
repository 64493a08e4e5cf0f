"""evaluate.py --why: six planted causes of a poor student are each named, on the embedded images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.data.cifar10_mini import unpack
from tests.conftest import Call, MakeFolder

KD = {"kd": {"alpha": 0.9, "temperature": 4.0}}


class Folders:
    """Makes and trains folders on the embedded images."""

    def __init__(self, parent: Path, runtime: Runtime) -> None:
        self.parent, self.runtime = parent, runtime

    def trained(self, name: str, *, num_channels: int, num_epochs: int, **params: Any) -> Folder:
        folder = Folder(self.parent / name)
        folder.path.mkdir()
        content = {
            "dataset": {"name": "cifar10_mini"},
            "student": {"name": "cnn", "num_channels": num_channels, "dropout": 0.0},
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "schedule": {"name": "onecycle"},
            "batch_size": 64,
            "num_epochs": num_epochs,
            **params,
        }
        folder.params.write_text(json.dumps(content))
        Experiment(folder.path, self.runtime).train()
        return folder

    def student(
        self,
        name: str,
        *,
        teacher: Folder,
        loss: dict[str, Any] = KD,
        expected_accuracy: float | None = None,
        **params: Any,
    ) -> Folder:
        options = {"model_dir": str(teacher.path), "expected_accuracy": expected_accuracy}
        return self.trained(name, num_channels=4, num_epochs=2, teacher=options, loss=loss, **params)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Folders:
    return Folders(tmp_path_factory.mktemp("why"), runtime)


@pytest.fixture(scope="module")
def teacher(folders: Folders) -> Folder:
    return folders.trained("teacher", num_channels=16, num_epochs=4)


@pytest.fixture(scope="module")
def alone(folders: Folders) -> Folder:
    return folders.trained("alone", num_channels=4, num_epochs=2)


def advice(folder: Folder, baseline: Folder | None, call: Call) -> dict[str, str | None]:
    """Subject of a finding -> its advice."""
    options = [] if baseline is None else ["--baseline", baseline.path]
    result = call(evaluate.main, "--model_dir", folder.path, "--why", *options)
    assert result.status == 0
    assert (folder.evaluation / "why.md").read_text() in result.out
    return {finding["name"]: finding["advice"] for finding in json.loads((folder.evaluation / "why.json").read_text())}


def test_a_student_that_learns_well_is_only_told_of_its_size_and_of_its_single_seed(
    folders: Folders, teacher: Folder, alone: Folder, call: Call
) -> None:
    found = advice(folders.student("healthy", teacher=teacher), alone, call)
    named = {name for name, text in found.items() if text is not None}
    assert named == {"seeds", "capacity"}  # it has a tenth of the teacher's parameters
    assert found.keys() >= {"teacher accuracy", "labels", "label smoothing", "temperature", "gradients", "agreement"}


def test_teacher_with_label_smoothing(folders: Folders, alone: Folder, call: Call) -> None:
    loss = {"ce": {"label_smoothing": 0.3}}
    smoothed = folders.trained("smoothed", num_channels=16, num_epochs=4, loss=loss)
    student = folders.student("of_smoothed", teacher=smoothed)
    assert advice(student, alone, call)["label smoothing"] is not None
    found = next(
        each for each in json.loads((student.evaluation / "why.json").read_text()) if "smoothing" in each["name"]
    )
    assert float(found["text"].rstrip(".").rpartition(" ")[2]) == pytest.approx(
        0.2, abs=0.15
    )  # it is a lower bound, of 0.3


def test_temperature_that_makes_labels_of_outputs(folders: Folders, teacher: Folder, alone: Folder, call: Call) -> None:
    student = folders.student("cold", teacher=teacher, loss={"kd": {"alpha": 0.9, "temperature": 0.1}})
    assert "these outputs are closer to labels" in str(advice(student, alone, call)["temperature"])


def test_weight_that_is_next_to_nothing(folders: Folders, teacher: Folder, alone: Folder, call: Call) -> None:
    loss = {"ce": {}, "kd": {"alpha": 1.0, "temperature": 4.0, "weight": 1e-6}}
    student = folders.student("weightless", teacher=teacher, loss=loss)
    assert advice(student, alone, call)["gradients"] == "more weight for kd, which changes next to nothing"


def test_teacher_that_is_worse_than_the_student(folders: Folders, alone: Folder, call: Call) -> None:
    weak = folders.trained("weak", num_channels=2, num_epochs=1)
    student = folders.student("of_weak", teacher=weak)
    assert "a better teacher" in str(advice(student, alone, call)["teacher accuracy"])


def test_labels_that_are_not_the_teacher_s(
    folders: Folders, teacher: Folder, tmp_path: Path, call: Call, alone: Folder
) -> None:
    arrays = vars(unpack())
    shuffled = np.random.default_rng(0).permutation(arrays["train_labels"])
    class_names = np.array(Experiment(teacher.path, folders.runtime).class_names)
    np.savez(tmp_path / "shuffled.npz", **(arrays | {"train_labels": shuffled, "class_names": class_names}))
    dataset = {"name": "arrays", "path": str(tmp_path / "shuffled.npz"), "val_size": 500}
    student = folders.student("shuffled", teacher=teacher, expected_accuracy=0.0, dataset=dataset)
    assert "they are not those that the teacher was trained on" in str(advice(student, None, call)["labels"])


def test_too_few_seeds(make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call) -> None:
    """Three seeds on each side of a student that learns without effect: no difference is shown."""
    teacher = make_folder(tmp_path / "teacher")
    Experiment(teacher.path, runtime).train()
    for side, params in (("alone", {}), ("distilled", {"teacher": str(teacher.path), "loss": {"kd": {"alpha": 0.01}}})):
        for seed in range(3):
            folder = make_folder(tmp_path / side / f"seed_{seed}", num_epochs=1, seed=seed, **params)
            Experiment(folder.path, runtime).train()
    student, baseline = (Folder(tmp_path / side / "seed_0") for side in ("distilled", "alone"))
    assert advice(student, baseline, call)["seeds"] is not None
    found = next(each for each in json.loads((student.evaluation / "why.json").read_text()) if each["name"] == "seeds")
    assert "3 and 3 seeds" in found["text"]


def test_baseline_of_params_json_is_the_default(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher")
    student = make_folder(tmp_path / "student", teacher="../teacher", loss=KD, baseline="../teacher")
    for folder in (teacher, student):
        Experiment(folder.path, runtime).train()
    assert "seeds" in advice(student, None, call)


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "no loss term reads a teacher"), (["--baseline", "nowhere"], "no such folder")],
)
def test_what_cannot_be_explained_is_an_error(
    options: list[str], message: str, make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "alone", num_epochs=1)
    Experiment(folder.path, runtime).train()
    result = call(evaluate.main, "--model_dir", folder.path, "--why", *options)
    assert result.status == 2
    assert message in result.err


def test_teacher_without_weights_is_an_error(
    make_folder: MakeFolder, runtime: Runtime, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher", num_epochs=1)
    student = make_folder(tmp_path / "student", num_epochs=1, teacher=str(teacher.path), loss=KD)
    Experiment(student.path, runtime).train()
    shutil.rmtree(teacher.path)
    make_folder(tmp_path / "teacher", num_epochs=1)
    result = call(evaluate.main, "--model_dir", student.path, "--why")
    assert result.status == 2
    assert "the teacher has no weights here" in result.err
