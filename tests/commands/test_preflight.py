"""A user error is one clear line and exit status 2, and the folder is not changed."""

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
REMOVED = object()  # in the table: the key is removed


class ExpectError(Protocol):
    """Run a script that must end with a user error; returns its one line without "error: "."""

    def __call__(self, main: Callable[[], int], *arguments: object) -> str: ...


@pytest.fixture
def expect_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ExpectError:
    def run_and_expect_error(main: Callable[[], int], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            run_script(main)
        return one_line(exit_info.value.code, capsys.readouterr().err)

    return run_and_expect_error


class ExpectTrainError(Protocol):
    """Run train.py, which must end with a user error and not change the folder; returns its one line."""

    def __call__(self, folder: Folder, *arguments: str) -> str: ...


@pytest.fixture
def expect_train_error(expect_error: ExpectError) -> ExpectTrainError:
    def run_and_expect_error(folder: Folder, *arguments: str) -> str:
        before = files_of(folder.path)
        message = expect_error(
            train.main, "--model_dir", folder.path, "--data_dir", folder.path / "no_data", *arguments
        )
        assert files_of(folder.path) == before
        return message

    return run_and_expect_error


def one_line(status: object, printed: str) -> str:
    assert status == EXIT_USER, printed
    assert printed.startswith("error: "), printed
    assert printed.endswith("\n"), printed
    assert printed.count("\n") == 1, printed
    return printed.removeprefix("error: ").rstrip("\n")


def files_of(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder, except locks, which no user reads."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


@pytest.fixture(scope="module")
def finished(make_folder: MakeFolder, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder that was trained for one epoch; tests use a copy of it."""
    folder = make_folder(tmp_path_factory.mktemp("finished") / "run", num_epochs=1)
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture
def trained(finished: Folder, tmp_path: Path) -> Folder:
    """A trained folder that a test may change."""
    shutil.copytree(finished.path, tmp_path / "trained")
    return Folder(tmp_path / "trained")


def change_params(folder: Folder, changes: dict[str, Any]) -> None:
    """Set values of params.json by their dotted path."""
    params = json.loads(folder.params.read_text())
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        parent = params
        for key in parents:
            parent = parent.setdefault(key, {})
        if value is REMOVED:
            del parent[leaf]
        else:
            parent[leaf] = copy.deepcopy(value)
    folder.params.write_text(json.dumps(params))


# Wrong values in params.json ----------------------------------------------------------------------------------------

# Description: the changes to a valid params.json, and the beginning of the message after "params.json: ".
WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    # keys
    "an unknown key": ({"studnet": {}}, 'studnet: unknown key, did you mean "student"?; known: description, dataset,'),
    "a misspelt key that is needed": (
        {"student": REMOVED, "stduent": {"name": "cnn"}},
        'stduent: unknown key, did you mean "student"?',
    ),
    "no dataset": ({"dataset": REMOVED}, "dataset: this key is needed"),
    "no student": ({"student": REMOVED}, "student: this key is needed"),
    "a student without a name": ({"student.name": REMOVED}, "student.name: this key is needed"),
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
        {"dataset.path": REMOVED},
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
        'teacher.model_dri: unknown key, did you mean "model_dir"?; known: model_dir, network',
    ),
}


@pytest.mark.parametrize(("changes", "expected"), WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_a_wrong_value_is_reported_with_its_key(
    changes: dict[str, Any],
    expected: str,
    make_folder: MakeFolder,
    expect_train_error: ExpectTrainError,
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path / "run")
    change_params(folder, changes)

    message = expect_train_error(folder)

    assert message.startswith(f"{folder.params}: {expected}")


# Description: the bytes of params.json, and the beginning of the message after "params.json: ".
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
def test_a_wrong_file_is_reported_with_the_position_of_the_error(
    content: bytes, expected: str, expect_train_error: ExpectTrainError, tmp_path: Path
) -> None:
    (tmp_path / "params.json").write_bytes(content)

    message = expect_train_error(Folder(tmp_path))

    assert message.startswith(f"{tmp_path / 'params.json'}: {expected}")


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_reported_with_the_closest_name(
    expect_error: ExpectError, make_folder: MakeFolder, tmp_path: Path
) -> None:
    make_folder(tmp_path / "cnn_distill")

    message = expect_error(train.main, "--model_dir", tmp_path / "cnn_distil")

    assert message == f'{tmp_path}/cnn_distil: no such folder, did you mean "cnn_distill"?'
    assert not (tmp_path / "cnn_distil").exists()


def test_a_folder_without_params_is_reported(expect_train_error: ExpectTrainError, tmp_path: Path) -> None:
    assert expect_train_error(Folder(tmp_path)) == f"{tmp_path}: the folder holds no params.json"


def test_a_file_instead_of_a_folder_is_reported(
    expect_error: ExpectError, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run")

    message = expect_error(train.main, "--model_dir", folder.params)

    assert message == f"{folder.params}: is a file, not a folder that holds params.json"


def test_a_folder_instead_of_params_json_is_reported(expect_train_error: ExpectTrainError, tmp_path: Path) -> None:
    (tmp_path / "params.json").mkdir()

    assert expect_train_error(Folder(tmp_path)) == f"{tmp_path}/params.json: cannot be read (Is a directory)"


def test_a_file_instead_of_the_data_folder_is_reported(
    make_folder: MakeFolder, expect_train_error: ExpectTrainError, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset={"name": "cifar10"})

    message = expect_train_error(folder, "--data_dir", str(folder.params))

    assert message.startswith(f"{folder.params}/cifar10: the data set cannot be written")


def test_params_that_changed_since_the_run_began_are_reported(
    trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(trained, {"optimizer.learning_rate": 0.02, "seed": 1})

    assert expect_train_error(trained) == (
        f"{trained.params}: changed since the run began: optimizer.learning_rate was 0.01, is 0.02; seed was 0, is 1; "
        "put it back, use another folder, or throw the run away with --restart"
    )


def test_a_user_error_keeps_the_run_that_restart_would_delete(
    trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(trained, {"dataset.val_size": 240})

    assert "val_size must be below the 240 training images" in expect_train_error(trained, "--restart")


def test_a_truncated_checkpoint_is_reported_on_resume(trained: Folder, expect_train_error: ExpectTrainError) -> None:
    trained.update_run(state="stopped")
    truncate(trained.checkpoint("last"))

    message = expect_train_error(trained)

    assert message.startswith(f"{trained.checkpoint('last')}: cannot be read, it may be cut short")
    assert message.endswith("; --restart begins anew")


def test_a_checkpoint_of_another_run_is_reported_on_resume(
    trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    trained.update_run(state="stopped")
    content = torch.load(trained.checkpoint("last"), weights_only=True)
    save_checkpoint(trained.checkpoint("last"), content | {"steps_per_epoch": 7})

    assert expect_train_error(trained) == (
        f"{trained.checkpoint('last')}: is not this run's checkpoint (steps per epoch: 7 in the file, 13 now); "
        "--restart begins anew"
    )


# Teachers -----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.fixture
def student(make_folder: MakeFolder, tmp_path: Path) -> Folder:
    """A folder that learns from `../trained`."""
    return make_folder(tmp_path / "student", loss=KD, teacher="../trained")


def test_a_missing_teacher_is_reported_with_the_closest_name(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(student, {"teacher": "../traind"})

    assert expect_train_error(student) == (
        f'{student.params}: teacher: no folder "../traind" under {ROOT} or {student.path}, did you mean "trained"?'
    )


def test_a_teacher_without_params_is_reported(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    trained.params.unlink()

    assert expect_train_error(student) == f"{trained.path}: the folder holds no params.json"


def test_a_folder_that_is_its_own_teacher_is_reported(student: Folder, expect_train_error: ExpectTrainError) -> None:
    change_params(student, {"teacher": "../student"})

    assert expect_train_error(student) == f"{student.params}: teacher: a cycle: {student.path} -> {student.path}"


def test_a_cycle_of_two_teachers_is_reported(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    teacher = make_folder(student.path.parent / "trained", loss=KD, teacher="../student")

    assert expect_train_error(student) == (
        f"{student.params}: teacher: a cycle: {student.path} -> {teacher.path} -> {student.path}"
    )


def test_a_teacher_with_other_classes_is_reported(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    teacher = make_folder(student.path.parent / "trained", dataset={"name": "cifar100"})

    assert expect_train_error(student) == (
        f"{student.params}: teacher: {teacher.path}: its classes differ from the data's: "
        '"apple", "aquarium_fish", "baby" and 97 more there, "0", "1", "2" and 7 more here; '
        "class_map can tell which is which"
    )


def test_a_teacher_for_images_of_other_channels_is_reported(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    dataset = {"name": "mnist"}
    teacher = make_folder(student.path.parent / "trained", dataset=dataset)

    assert expect_train_error(student) == (
        f"{student.params}: teacher: {teacher.path} takes images with 1 channel, the student with 3"
    )


class NetworkWithoutMaps(CNN):
    """A network that returns no maps."""

    def forward(self, images_NCHW: torch.Tensor) -> Output:
        return super().forward(images_NCHW)._replace(maps=())


@pytest.mark.parametrize("mapless", ["student", "teacher"])
def test_missing_maps_are_reported(
    mapless: str,
    student: Folder,
    trained: Folder,
    expect_train_error: ExpectTrainError,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(NETS._functions, "mapless", NetworkWithoutMaps)
    change_params(student, {"loss": {"ce": {}, "at": {"weight": 1000.0}}})
    change_params(student if mapless == "student" else trained, {"student": {"name": "mapless"}})

    assert expect_train_error(student) == f"{student.params}: loss.at: the {mapless} returns no maps to compare"


def test_maps_of_several_teachers_are_refused(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(student, {"loss": {"at": {}}, "teacher": ["../trained", "../trained"]})

    assert expect_train_error(student) == (
        f"{student.params}: teacher: the loss at compares with one network: name one folder"
    )


def test_a_teacher_whose_network_cannot_be_built_is_reported_with_its_own_params_json(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    teacher = make_folder(student.path.parent / "trained", student={"name": "wrn", "conv": "G16B4"})
    change_params(student, {"loss": {"at": {}}})

    message = expect_train_error(student)

    assert message.startswith(f"{teacher.params}: student: conv G16B4 cannot have 16 input and 32 output channels: ")


def test_an_error_in_the_params_of_the_teacher_is_reported_before_it_is_trained(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    teacher = make_folder(student.path.parent / "trained", optimizer={"name": "adam", "learning_rate": -1.0})

    assert expect_train_error(student) == f"{teacher.params}: optimizer: learning_rate must be positive, got -1.0"


def test_an_untrained_teacher_is_reported_with_no_train_teacher(
    student: Folder, make_folder: MakeFolder, expect_train_error: ExpectTrainError
) -> None:
    teacher = make_folder(student.path.parent / "trained")

    assert expect_train_error(student, "--no_train_teacher") == (
        f"{student.params}: teacher: {teacher.path} is not trained (its run is new); "
        f"python train.py --model_dir {teacher.path}"
    )


def test_a_truncated_checkpoint_of_the_teacher_is_reported(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    truncate(trained.checkpoint("best"))

    message = expect_train_error(student)

    assert message.startswith(f"{trained.checkpoint('best')}: cannot be read, it may be cut short")


def test_a_teacher_checkpoint_of_another_network_is_reported_with_the_first_missing_name(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(trained, {"student": {"name": "resnet8"}})

    message = expect_train_error(student)

    assert message.startswith(f"{trained.checkpoint('best')}: lacks layer1.0.conv1.weight (and ")
    assert message.endswith(" more): not this network's weights")


def test_a_teacher_checkpoint_with_other_shapes_is_reported_with_the_shapes(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(trained, {"student.num_channels": 8})

    assert expect_train_error(student) == (
        f"{trained.checkpoint('best')}: conv1.weight has shape (4, 3, 3, 3), the network (8, 3, 3, 3)"
    )


class ArbitraryObject:
    """An object whose unpickling could run code."""


def test_a_pickled_object_is_not_loaded(student: Folder, trained: Folder, expect_train_error: ExpectTrainError) -> None:
    torch.save({"state_dict": ArbitraryObject()}, trained.checkpoint("best"))

    assert expect_train_error(student) == (
        f"{trained.checkpoint('best')}: holds more than tensors and plain values "
        f"({__name__}.ArbitraryObject): not loaded; "
        "where the file is trusted, torch.save(net.state_dict(), ...) writes its weights alone"
    )


def test_a_checkpoint_without_weights_is_reported(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    save_checkpoint(trained.checkpoint("best"), {"epoch": 3})

    assert expect_train_error(student) == (
        f"{trained.checkpoint('best')}: holds neither weights under state_dict, model, state_dict_ema or a similar "
        "key, nor tensors alone, but epoch"
    )


def make_not_finite(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["fc2.weight"][0, 0] = float("nan")
    save_checkpoint(path, content)


def test_a_teacher_whose_weights_are_not_finite_is_reported(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    make_not_finite(trained.checkpoint("best"))

    assert expect_train_error(student) == f"{trained.checkpoint('best')}: fc2.weight is not finite"


def test_a_start_from_weights_that_are_not_finite_is_reported(
    student: Folder, trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    change_params(student, {"teacher": None, "loss": {"ce": {}}, "init": str(trained.path)})
    make_not_finite(trained.checkpoint("last"))

    assert expect_train_error(student) == f"{trained.checkpoint('last')}: fc2.weight is not finite"


def test_a_run_is_not_resumed_from_weights_that_are_not_finite(
    trained: Folder, expect_train_error: ExpectTrainError
) -> None:
    trained.update_run(state="stopped")
    make_not_finite(trained.checkpoint("last"))

    assert expect_train_error(trained) == (
        f"{trained.checkpoint('last')}: fc2.weight is not finite; --restart begins anew"
    )


# The command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
def test_an_unavailable_device_is_reported(
    device: str, make_folder: MakeFolder, expect_error: ExpectError, tmp_path: Path
) -> None:
    message = expect_error(train.main, "--model_dir", make_folder(tmp_path / "run").path, "--device", device)

    assert message.startswith(f"--device {device}: ")
    assert message.endswith('; "auto" selects an available one')


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_unavailable_gpu_is_reported(
    make_folder: MakeFolder, expect_train_error: ExpectTrainError, tmp_path: Path
) -> None:
    assert expect_train_error(make_folder(tmp_path / "run"), "--device", "cuda").startswith("--device cuda: ")


def test_dry_run_reports_the_errors_of_a_run(
    make_folder: MakeFolder, expect_train_error: ExpectTrainError, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", loss=KD)

    assert "the loss kd needs one, and none is given" in expect_train_error(folder, "--dry_run")


def test_a_permission_error_is_reported(expect_error: ExpectError) -> None:
    def main() -> int:
        raise PermissionError(13, "Permission denied", "/elsewhere/run")

    assert expect_error(main) == "/elsewhere/run: permission denied"


def test_evaluate_without_a_checkpoint_is_reported(
    make_folder: MakeFolder, expect_error: ExpectError, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run")

    message = expect_error(evaluate.main, "--model_dir", folder.path)

    assert message == f"{folder.checkpoint('best')}: no such file"


def test_evaluate_with_missing_weights_is_reported(trained: Folder, expect_error: ExpectError) -> None:
    message = expect_error(evaluate.main, "--model_dir", trained.path, "--restore_file", trained.path / "bets.pth.tar")

    assert message == f"{trained.path}/bets.pth.tar: no such file"


def test_evaluate_on_an_empty_split_is_reported(trained: Folder, expect_error: ExpectError) -> None:
    change_params(trained, {"dataset.val_size": 0})

    message = expect_error(evaluate.main, "--model_dir", trained.path, "--split", "val")

    assert message == f"{trained.params}: the split val is empty (val_size 0)"


def test_an_array_file_without_its_arrays_is_reported(
    make_folder: MakeFolder, expect_train_error: ExpectTrainError, tmp_path: Path
) -> None:
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 8, 8, 3), np.uint8), train_labels=np.arange(2))
    folder = make_folder(tmp_path / "run")
    change_params(folder, {"dataset.path": str(tmp_path / "half.npz")})

    message = expect_train_error(folder)

    assert message.startswith(
        f"{folder.params}: dataset.path: {tmp_path / 'half.npz'}: no array test_images; the file has"
    )


# Real processes -----------------------------------------------------------------------------------------------------

# Root can write everything, so the script changes its user. The new user may be unable to read Python's modules, so all
# are imported before that; a first preflight imports what torch imports lazily.
SCRIPT_AS_ANOTHER_USER = """
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


def run_and_expect_error(arguments: list[str], cwd: Path = ROOT) -> str:
    """Run a process that must end with a user error; returns its one line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.stdout == ""
    return one_line(completed.returncode, completed.stderr)


@pytest.mark.parametrize(
    ("file", "mode", "expected"),
    [
        (".", 0o555, "cannot write to this folder (Permission denied)"),
        ("params.json", 0o000, "params.json: cannot be read (Permission denied)"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users and permissions")
def test_a_folder_of_another_user_is_reported(
    file: str, mode: int, expected: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "run", dataset={"name": "cifar10_mini"})
    script = SCRIPT_AS_ANOTHER_USER.format(file=file, mode=mode)

    try:
        message = run_and_expect_error(["-c", script, "--model_dir", "."], cwd=folder.path)
    finally:
        folder.path.chmod(0o755)

    assert message.endswith(expected)
    assert [path.name for path in folder.path.iterdir()] == ["params.json"]


def test_train_ends_with_status_2_and_one_line(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", loss={"kdd": {}})

    message = run_and_expect_error(["train.py", "--model_dir", str(folder.path)])

    assert message.startswith(f'{folder.params}: loss: no loss is named "kdd", did you mean "kd"?')


def test_evaluate_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    message = run_and_expect_error(["evaluate.py", "--model_dir", str(tmp_path / "nowhere")])

    assert message == f"{tmp_path}/nowhere: no such folder"
