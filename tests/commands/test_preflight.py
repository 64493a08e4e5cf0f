"""A user's mistake is one clear line and exit status 2, and it leaves the folder as it was."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

import evaluate
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.cli import run_script
from model.config.folder import Folder
from model.errors import EXIT_USER
from model.home import ROOT
from model.nets.cnn import CNN
from model.registry import NETS
from model.training.checkpoint import save_checkpoint
from model.types import Output
from tests.conftest import MakeFolder

KD = {"kd": {"alpha": 0.9, "temperature": 4.0}}
GONE = object()  # in the table: the key is left out


class Refused(Protocol):
    """Call a script that must refuse; returns its one line without "error: "."""

    def __call__(self, main: Callable[[], int], *arguments: object) -> str: ...


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    def call(main: Callable[[], int], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_script(main)
        return one_line(ended.value.code, capsys.readouterr().err)

    return call


class TrainRefused(Protocol):
    """Call train.py on a folder that it must refuse and leave as it was; returns its one line."""

    def __call__(self, folder: Folder, *arguments: str) -> str: ...


@pytest.fixture
def train_refused(refused: Refused) -> TrainRefused:
    def call(folder: Folder, *arguments: str) -> str:
        before = files_of(folder.path)
        message = refused(train.main, "--model_dir", folder.path, "--data_dir", folder.path / "no_data", *arguments)
        assert files_of(folder.path) == before
        return message

    return call


def one_line(status: object, printed: str) -> str:
    assert status == EXIT_USER, printed
    assert printed.startswith("error: "), printed
    assert printed.endswith("\n"), printed
    assert printed.count("\n") == 1, printed
    return printed.removeprefix("error: ").rstrip("\n")


def files_of(path: Path) -> dict[str, bytes]:
    """Every file below a folder; a lock is nothing that a user sees."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


@pytest.fixture(scope="module")
def finished(make_folder: MakeFolder, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder that has been trained for an epoch; to be copied."""
    folder = make_folder(tmp_path_factory.mktemp("finished") / "run", num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def trained(finished: Folder, tmp_path: Path) -> Folder:
    """A trained folder, for this test alone."""
    shutil.copytree(finished.path, tmp_path / "trained")
    return Folder(tmp_path / "trained")


def change_params(folder: Folder, changes: dict[str, Any]) -> None:
    """Set values of params.json by their dotted path."""
    params = json.loads(folder.params.read_text())
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        runtime = params
        for parent in parents:
            runtime = runtime.setdefault(parent, {})
        if value is GONE:
            del runtime[leaf]
        else:
            runtime[leaf] = copy.deepcopy(value)
    folder.params.write_text(json.dumps(params))


# A wrong value in params.json ---------------------------------------------------------------------------------------

# What is wrong: the changes to a good params.json, and how the message goes on after "params.json: ".
WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    # keys
    "an unknown key": ({"studnet": {}}, 'studnet: unknown key, did you mean "student"?; known: description, dataset,'),
    "a misspelt key that is needed": (
        {"student": GONE, "stduent": {"name": "cnn"}},
        'stduent: unknown key, did you mean "student"?',
    ),
    "no dataset": ({"dataset": GONE}, "dataset: this key is needed"),
    "no student": ({"student": GONE}, "student: this key is needed"),
    "a student without a name": ({"student.name": GONE}, "student.name: this key is needed"),
    # types
    "a string for an object": ({"dataset": "cifar10"}, 'dataset: should be an object with a "name", got "cifar10"'),
    "a number for a name": ({"student.name": 18}, "student.name: should be a valid string, got 18"),
    "a string for an integer": ({"batch_size": "128"}, 'batch_size: should be a valid integer, got "128"'),
    "a bool for an integer": ({"batch_size": True}, "batch_size: should be a valid integer, got true"),
    "a float for an integer": ({"num_epochs": 3.0}, "num_epochs: should be a valid integer, got 3.0"),
    "a number too large for a float": ({"gradient_clip": 10**400}, "gradient_clip: should be a valid number, got 1000"),
    # ranges
    "batch size 0": ({"batch_size": 0}, "batch_size: should be greater than or equal to 1, got 0"),
    "a batch of one image": ({"batch_size": 1}, "batch_size: 1 is too few for cnn and images of shape (3, 8, 8): "),
    "no epochs": ({"num_epochs": 0}, "num_epochs: should be greater than or equal to 1, got 0"),
    "a negative seed": ({"seed": -1}, "seed: should be greater than or equal to 0, got -1"),
    "a negative gradient clip": ({"gradient_clip": -1.0}, "gradient_clip: should be greater than 0, got -1.0"),
    "an unknown precision": (
        {"precision": "bfloat"},
        "precision: should be 'auto', 'float32' or 'bfloat16', got \"bfloat\", did you mean \"bfloat16\"?",
    ),
    # data set
    "an unknown data set": (
        {"dataset": {"name": "cifar-10"}},
        'dataset.name: no data set is named "cifar-10", did you mean "cifar10"?; known: arrays, cifar10,',
    ),
    "an unknown option of a data set": (
        {"dataset.valsize": 40},
        'dataset.valsize: unknown option of data set arrays, did you mean "val_size"?; arrays has path, pad, flip,',
    ),
    "a data set without a needed option": (
        {"dataset.path": GONE},
        "dataset.path: data set arrays needs this option",
    ),
    "no such file of images": (
        {"dataset.path": "no_such.npz"},
        'dataset.path: no "no_such.npz" under ',
    ),
    "a validation split of all images": (
        {"dataset.val_size": 240},
        "dataset: val_size must be below the 240 training images, got 240",
    ),
    "a negative val_size": ({"dataset.val_size": -1}, "dataset: val_size must be 0 or more, got -1"),
    "a val_size of the wrong type": ({"dataset.val_size": 0.1}, "dataset.val_size: should be a valid integer, got 0.1"),
    "no training images": (
        {"dataset.train_fraction": 0.0},
        "dataset: train_fraction must be above 0 and at most 1, got 0.0",
    ),
    "a yes for a bool": ({"dataset.augment": "yes"}, 'dataset.augment: should be a valid boolean, got "yes"'),
    # network
    "an unknown network": (
        {"student": {"name": "resnet19"}},
        'student.name: no network is named "resnet19", did you mean',
    ),
    "an unknown option of a network": (
        {"student.chanels": 4},
        'student.chanels: unknown option of network cnn, did you mean "num_channels"?; cnn has num_channels, dropout',
    ),
    "an option of a network that has none": (
        {"student": {"name": "resnet8", "dropout": 0.5}},
        "student.dropout: unknown option of network resnet8; resnet8 has no options",
    ),
    "no channels": ({"student.num_channels": 0}, "student: num_channels must be at least 1, got 0"),
    "dropout of everything": ({"student.dropout": 1.0}, "student: dropout must be at least 0 and below 1, got 1.0"),
    # loss
    "a loss that is no object": ({"loss": "kd"}, 'loss: should be an object, got "kd"'),
    "no loss": ({"loss": {}}, "loss: is empty"),
    "a number for a term's options": ({"loss": {"kd": 0.9}}, "loss.kd: should be an object, got 0.9"),
    "an unknown loss": (
        {"loss": {"kdd": {}}},
        'loss: no loss is named "kdd", did you mean "kd"?; known: ',
    ),
    "an unknown option of a loss": (
        {"loss": {"kd": {"temprature": 4.0}}},
        'loss.kd.temprature: unknown option of loss kd, did you mean "temperature"?; kd has alpha, temperature,',
    ),
    "an unknown choice": (
        {"loss": {"kd": {"reduction": "batch_mean"}}},
        "loss.kd.reduction: should be 'batchmean' or 'mean', got \"batch_mean\", did you mean \"batchmean\"?",
    ),
    "a negative temperature": (
        {"loss": {"kd": {"temperature": -4.0}}},
        "loss.kd: temperature must be positive, got -4.0",
    ),
    "temperature 0": ({"loss": {"kd": {"temperature": 0.0}}}, "loss.kd: temperature must be positive, got 0.0"),
    "alpha above 1": ({"loss": {"kd": {"alpha": 1.5}}}, "loss.kd: alpha must be in [0, 1], got 1.5"),
    "a negative weight": ({"loss": {"ce": {"weight": -1.0}}}, "loss.ce: weight must be 0 or more, got -1.0"),
    "all weights 0": (
        {"loss": {"ce": {"weight": 0.0}}},
        "loss: every term has weight 0: there is nothing to learn from",
    ),
    # optimizer
    "an unknown optimizer": (
        {"optimizer": {"name": "adamW"}},
        'optimizer.name: no optimizer is named "adamW", did you mean "adam"?; known: adam, adamw, sgd',
    ),
    "an unknown option of an optimizer": (
        {"optimizer.lr": 0.1},
        "optimizer.lr: unknown option of optimizer adam; adam has learning_rate, betas, eps, weight_decay",
    ),
    "a string for the learning rate": (
        {"optimizer.learning_rate": "0.1"},
        'optimizer.learning_rate: should be a valid number, got "0.1"',
    ),
    "a negative learning rate": (
        {"optimizer.learning_rate": -0.1},
        "optimizer: learning_rate must be positive, got -0.1",
    ),
    "learning rate 0": ({"optimizer.learning_rate": 0.0}, "optimizer: learning_rate must be positive, got 0.0"),
    "a negative weight decay": (
        {"optimizer.weight_decay": -1.0},
        "optimizer: weight_decay must be 0 or more, got -1.0",
    ),
    "momentum 1": ({"optimizer": {"name": "sgd", "momentum": 1.0}}, "optimizer: momentum must be in [0, 1), got 1.0"),
    "Nesterov without momentum": (
        {"optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": True}},
        "optimizer: Nesterov momentum requires a momentum and zero dampening",
    ),
    "one beta": ({"optimizer.betas": [0.9]}, "optimizer.betas: has too few values, got [0.9]"),
    "a beta of 1": ({"optimizer.betas": [0.9, 1.0]}, "optimizer: betas must be in [0, 1), got [0.9, 1.0]"),
    # schedule
    "an unknown schedule": (
        {"schedule": {"name": "cosin"}},
        'schedule.name: no schedule is named "cosin", did you mean "cosine"?; known: constant, cosine,',
    ),
    "an unknown option of a schedule": (
        {"schedule": {"name": "constant", "factor": 0.1}},
        "schedule.factor: unknown option of schedule constant; constant has warmup_epochs",
    ),
    "step without step_epochs": (
        {"schedule": {"name": "step"}},
        "schedule.step_epochs: schedule step needs this option",
    ),
    "milestones that do not rise": (
        {"schedule": {"name": "multistep", "milestones": [5, 3]}},
        "schedule: milestones must be rising epochs from 1 on, got [5, 3]",
    ),
    "a negative warm-up": (
        {"schedule": {"name": "constant", "warmup_epochs": -1}},
        "schedule: warmup_epochs must be 0 or more, got -1.0",
    ),
    # teacher
    "no teacher where one is needed": ({"loss": KD}, "teacher: the loss kd needs one, and none is given"),
    "an empty list of teachers": ({"loss": KD, "teacher": []}, "teacher: is empty"),
    "a number for a teacher": (
        {"loss": KD, "teacher": 18},
        'teacher: should be a folder, a list of folders, or an object with "model_dir", got 18',
    ),
    "a number among teachers": (
        {"loss": KD, "teacher": ["../teacher", 18]},
        "teacher.1: should be a valid string, got 18",
    ),
    "an unknown mean of teachers": (
        {"loss": KD, "teacher": {"model_dir": ["../teacher", "../teacher"], "combine": "votes"}},
        "teacher.combine: should be 'probabilities' or 'logits', got \"votes\"",
    ),
    "an unknown key of a teacher": (
        {"loss": KD, "teacher": {"model_dri": "../teacher"}},
        'teacher.model_dri: unknown key, did you mean "model_dir"?; known: model_dir, weights',
    ),
}


@pytest.mark.parametrize(("changes", "expected"), WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_a_wrong_value_is_told_with_its_key(
    changes: dict[str, Any], expected: str, make_folder: MakeFolder, train_refused: TrainRefused, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run")
    change_params(folder, changes)

    message = train_refused(folder)

    assert message.startswith(f"{folder.params}: {expected}")


# What is wrong: the bytes of params.json, and how the message goes on.
WRONG_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "line 1, column 1: Expecting value"),
    "a comma too many": (b'{\n  "seed": 0,\n}', "line "),
    "a key without its value": (b'{\n  "seed" 0\n}', "line 2, column 10: Expecting ':' delimiter"),
    "a key twice": (b'{"seed": 0, "seed": 1}', 'the key "seed" occurs twice'),
    "NaN": (b'{"gradient_clip": NaN}', "NaN is not a JSON number"),
    "a list": (b'["cnn"]', 'must be a JSON object, got ["cnn"]'),
    "null": (b"null", "must be a JSON object, got null"),
    "text that is not UTF-8": (b'{"description": "\xe9"}', "is not UTF-8 text (byte 17)"),
    "too many brackets": (b"[" * 100_000, "is nested too deeply"),
    "a flat file with an unknown key": (
        b'{"model_version": "cnn", "learning_rat": 0.1, "num_epochs": 3}',
        'learning_rat: unknown key, did you mean "learning_rate"?; known: model_version,',
    ),
    "a flat file with an unknown teacher": (
        b'{"model_version": "cnn_distill", "learning_rate": 0.1, "num_epochs": 3, "teacher": "resnet81"}',
        "teacher: should be 'resnet18', 'wrn', 'densenet', 'resnext29', 'preresnet110' or 'none', got",
    ),
}


@pytest.mark.parametrize(("content", "expected"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_wrong_file_is_told_with_its_place(
    content: bytes, expected: str, train_refused: TrainRefused, tmp_path: Path
) -> None:
    (tmp_path / "params.json").write_bytes(content)

    message = train_refused(Folder(tmp_path))

    assert message.startswith(f"{tmp_path / 'params.json'}: {expected}")


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_told_with_the_nearest(refused: Refused, make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder(tmp_path / "cnn_distill")

    message = refused(train.main, "--model_dir", tmp_path / "cnn_distil")

    assert message == f'{tmp_path}/cnn_distil: no such folder, did you mean "cnn_distill"?'
    assert not (tmp_path / "cnn_distil").exists()


def test_a_folder_without_params_is_told(train_refused: TrainRefused, tmp_path: Path) -> None:
    assert train_refused(Folder(tmp_path)) == f"{tmp_path}: the folder holds no params.json"


def test_a_file_for_a_folder_is_told(refused: Refused, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")

    message = refused(train.main, "--model_dir", folder.params)

    assert message == f"{folder.params}: is a file, not a folder that holds params.json"


def test_a_folder_in_place_of_params_is_told(train_refused: TrainRefused, tmp_path: Path) -> None:
    (tmp_path / "params.json").mkdir()

    assert train_refused(Folder(tmp_path)) == f"{tmp_path}/params.json: cannot be read (Is a directory)"


def test_a_file_for_the_data_folder_is_told(
    make_folder: MakeFolder, train_refused: TrainRefused, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset={"name": "cifar10"})

    message = train_refused(folder, "--data_dir", str(folder.params))

    assert message.startswith(f"{folder.params}/cifar10: the data set cannot be written")


def test_params_that_changed_since_the_run_began_are_told(trained: Folder, train_refused: TrainRefused) -> None:
    change_params(trained, {"optimizer.learning_rate": 0.02, "seed": 1})

    assert train_refused(trained) == (
        f"{trained.params}: changed since the run began: optimizer.learning_rate was 0.01, is 0.02; seed was 0, is 1; "
        "put it back, use another folder, or throw the run away with --restart"
    )


def test_a_mistake_keeps_the_run_that_restart_would_throw_away(trained: Folder, train_refused: TrainRefused) -> None:
    change_params(trained, {"dataset.val_size": 240})

    assert "val_size must be below the 240 training images" in train_refused(trained, "--restart")


def test_a_checkpoint_that_is_cut_short_is_told_on_resume(trained: Folder, train_refused: TrainRefused) -> None:
    trained.update_run(state="stopped")
    cut_short(trained.checkpoint("last"))

    message = train_refused(trained)

    assert message.startswith(f"{trained.checkpoint('last')}: cannot be read, it may be cut short")
    assert message.endswith("; --restart begins anew")


def test_a_checkpoint_of_another_run_is_told_on_resume(trained: Folder, train_refused: TrainRefused) -> None:
    trained.update_run(state="stopped")
    content = torch.load(trained.checkpoint("last"), weights_only=True)
    save_checkpoint(trained.checkpoint("last"), content | {"steps_per_epoch": 7})

    assert train_refused(trained) == (
        f"{trained.checkpoint('last')}: is not this run's checkpoint (steps per epoch: 7 there, 13 here); "
        "--restart begins anew"
    )


# Teachers -----------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.fixture
def student(make_folder: MakeFolder, tmp_path: Path) -> Folder:
    """A folder that learns from `../trained`."""
    return make_folder(tmp_path / "student", loss=KD, teacher="../trained")


def test_a_missing_teacher_is_told_with_the_nearest(
    student: Folder, trained: Folder, train_refused: TrainRefused
) -> None:
    change_params(student, {"teacher": "../traind"})

    assert train_refused(student) == (
        f'{student.params}: teacher: no folder "../traind" under {ROOT} or {student.path}, did you mean "trained"?'
    )


def test_a_teacher_without_params_is_told(student: Folder, trained: Folder, train_refused: TrainRefused) -> None:
    trained.params.unlink()

    assert train_refused(student) == f"{trained.path}: the folder holds no params.json"


def test_a_folder_that_teaches_itself_is_told(student: Folder, train_refused: TrainRefused) -> None:
    change_params(student, {"teacher": "../student"})

    assert train_refused(student) == f"{student.params}: teacher: a cycle: {student.path} -> {student.path}"


def test_two_folders_that_teach_each_other_are_told(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained", loss=KD, teacher="../student")

    assert train_refused(student) == (
        f"{student.params}: teacher: a cycle: {student.path} -> {teacher.path} -> {student.path}"
    )


def test_a_teacher_of_other_classes_is_told(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained", dataset={"name": "cifar100"})

    assert train_refused(student) == (
        f"{student.params}: teacher: {teacher.path} has 100 classes (cifar100), the student 10"
    )


def test_a_teacher_of_other_images_is_told(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained", dataset={"name": "cifar10_mini"})

    assert train_refused(student) == (
        f"{student.params}: teacher: {teacher.path} takes images of shape (3, 32, 32), the student (3, 8, 8)"
    )


class Mapless(CNN):
    """A network that gives no maps."""

    def forward(self, images_NCHW: torch.Tensor) -> Output:
        return super().forward(images_NCHW)._replace(maps=())


@pytest.mark.parametrize("mapless", ["student", "teacher"])
def test_maps_that_cannot_be_compared_are_told(
    mapless: str, student: Folder, trained: Folder, train_refused: TrainRefused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS._functions, "mapless", Mapless)
    change_params(student, {"loss": {"ce": {}, "at": {"weight": 1000.0}}})
    change_params(student if mapless == "student" else trained, {"student": {"name": "mapless"}})

    assert train_refused(student) == f"{student.params}: loss.at: the {mapless} returns no maps to compare"


def test_maps_of_several_teachers_are_refused(student: Folder, trained: Folder, train_refused: TrainRefused) -> None:
    change_params(student, {"loss": {"at": {}}, "teacher": ["../trained", "../trained"]})

    assert train_refused(student) == (
        f"{student.params}: teacher: the loss at compares with one network: name one folder"
    )


def test_a_teacher_whose_network_cannot_be_built_is_told_under_its_own_file(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained", student={"name": "wrn", "conv": "G16B4"})
    change_params(student, {"loss": {"at": {}}})

    message = train_refused(student)

    assert message.startswith(f"{teacher.params}: student: conv G16B4 cannot have 16 input and 32 output channels: ")


def test_a_mistake_in_the_teachers_params_is_told_before_it_is_trained(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained", optimizer={"name": "adam", "learning_rate": -1.0})

    assert train_refused(student) == f"{teacher.params}: optimizer: learning_rate must be positive, got -1.0"


def test_an_untrained_teacher_is_told_where_it_must_not_be_trained(
    student: Folder, make_folder: MakeFolder, train_refused: TrainRefused
) -> None:
    teacher = make_folder(student.path.parent / "trained")

    assert train_refused(student, "--no_train_teacher") == (
        f"{student.params}: teacher: {teacher.path} is not trained (its run is new); "
        f"python train.py --model_dir {teacher.path}"
    )


def test_a_teachers_checkpoint_that_is_cut_short_is_told(
    student: Folder, trained: Folder, train_refused: TrainRefused
) -> None:
    cut_short(trained.checkpoint("best"))

    message = train_refused(student)

    assert message.startswith(f"{trained.checkpoint('best')}: cannot be read, it may be cut short")


def test_a_teachers_checkpoint_of_another_network_is_told_with_the_first_name(
    student: Folder, trained: Folder, train_refused: TrainRefused
) -> None:
    change_params(trained, {"student": {"name": "resnet8"}})

    message = train_refused(student)

    assert message.startswith(f"{trained.checkpoint('best')}: lacks layer1.0.conv1.weight (and ")
    assert message.endswith(" more): not this network's weights")


def test_a_teachers_checkpoint_of_another_size_is_told_with_the_shapes(
    student: Folder, trained: Folder, train_refused: TrainRefused
) -> None:
    change_params(trained, {"student.num_channels": 8})

    assert train_refused(student) == (
        f"{trained.checkpoint('best')}: conv1.weight has shape (4, 3, 3, 3), the network (8, 3, 3, 3)"
    )


class NoTensor:
    """What a checkpoint could run code with."""


def test_a_pickled_object_is_not_loaded(student: Folder, trained: Folder, train_refused: TrainRefused) -> None:
    torch.save({"state_dict": NoTensor()}, trained.checkpoint("best"))

    assert train_refused(student) == (
        f"{trained.checkpoint('best')}: holds more than tensors and plain values, or is no checkpoint: not loaded"
    )


def test_a_checkpoint_without_weights_is_told(student: Folder, trained: Folder, train_refused: TrainRefused) -> None:
    save_checkpoint(trained.checkpoint("best"), {"epoch": 3})

    assert train_refused(student) == (
        f"{trained.checkpoint('best')}: holds neither state_dict nor model nor tensors alone, but epoch"
    )


# The command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_told(
    device: str, make_folder: MakeFolder, refused: Refused, tmp_path: Path
) -> None:
    message = refused(train.main, "--model_dir", make_folder(tmp_path / "run").path, "--device", device)

    assert message.startswith(f"--device {device}: ")
    assert message.endswith('; "auto" selects an available one')


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_here_is_told(make_folder: MakeFolder, train_refused: TrainRefused, tmp_path: Path) -> None:
    assert train_refused(make_folder(tmp_path / "run"), "--device", "cuda").startswith("--device cuda: ")


def test_dry_run_refuses_what_train_refuses(
    make_folder: MakeFolder, train_refused: TrainRefused, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", loss=KD)

    assert "the loss kd needs one, and none is given" in train_refused(folder, "--dry_run")


def test_a_file_that_may_not_be_read_is_told(refused: Refused) -> None:
    def main() -> int:
        raise PermissionError(13, "Permission denied", "/elsewhere/run")

    assert refused(main) == "/elsewhere/run: permission denied"


def test_evaluate_without_a_checkpoint_is_told(make_folder: MakeFolder, refused: Refused, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")

    message = refused(evaluate.main, "--model_dir", folder.path)

    assert message == f"{folder.checkpoint('best')}: no such file"


def test_evaluate_with_missing_weights_is_told(trained: Folder, refused: Refused) -> None:
    message = refused(evaluate.main, "--model_dir", trained.path, "--restore_file", trained.path / "bets.pth.tar")

    assert message == f"{trained.path}/bets.pth.tar: no such file"


def test_evaluate_on_an_empty_split_is_told(trained: Folder, refused: Refused) -> None:
    change_params(trained, {"dataset.val_size": 0})

    message = refused(evaluate.main, "--model_dir", trained.path, "--split", "val")

    assert message == f"{trained.params}: the split val is empty (val_size 0)"


def test_an_array_file_without_its_arrays_is_told(
    make_folder: MakeFolder, train_refused: TrainRefused, tmp_path: Path
) -> None:
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 8, 8, 3), np.uint8), train_labels=np.arange(2))
    folder = make_folder(tmp_path / "run")
    change_params(folder, {"dataset.path": str(tmp_path / "half.npz")})

    message = train_refused(folder)

    assert message.startswith(
        f"{folder.params}: dataset.path: {tmp_path / 'half.npz'}: has no array test_images; it has"
    )


# Real processes -----------------------------------------------------------------------------------------------------

# What cannot be written cannot be tested as root. Another user may not read the interpreter's own modules, so all are
# imported before the user changes; a first check imports what torch leaves for later.
AS_ANOTHER_USER = """
import os
from pathlib import Path
import torch
import train
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.cli import run_script
from model.commands import dry_run, preflight

preflight.preflight(Experiment(".", Runtime(device=torch.device("cpu"), data_dir=Path("data"))))
Path("{file}").chmod({mode})
if os.getuid() == 0:
    os.setuid(65534)
run_script(train.main)
"""


def call(arguments: list[str], cwd: Path = ROOT) -> str:
    """The one line of a process that must refuse."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    return one_line(done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("file", "mode", "expected"),
    [
        (".", 0o555, "cannot write to this folder (Permission denied)"),
        ("params.json", 0o000, "params.json: cannot be read (Permission denied)"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users and permissions")
def test_a_folder_of_another_user_is_told(
    file: str, mode: int, expected: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset={"name": "cifar10_mini"})
    script = AS_ANOTHER_USER.format(file=file, mode=mode)

    try:
        message = call(["-c", script, "--model_dir", "."], cwd=folder.path)
    finally:
        folder.path.chmod(0o755)

    assert message.endswith(expected)
    assert [path.name for path in folder.path.iterdir()] == ["params.json"]


def test_train_ends_with_status_2_and_one_line(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", loss={"kdd": {}})

    message = call(["train.py", "--model_dir", str(folder.path)])

    assert message.startswith(f'{folder.params}: loss: no loss is named "kdd", did you mean "kd"?')


def test_evaluate_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    message = call(["evaluate.py", "--model_dir", str(tmp_path / "nowhere")])

    assert message == f"{tmp_path}/nowhere: no such folder"
