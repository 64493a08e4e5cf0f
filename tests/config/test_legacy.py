"""Legacy flat files of knowledge-distillation-pytorch: its fifteen folders, older files of its grids, and errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from model.config.legacy import is_flat, nested_from_flat
from model.config.params import parse_params
from model.errors import OptionError, UserError

ADAM = {"name": "adam", "learning_rate": 0.001, "weight_decay": 0.0}
SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "nesterov": False}
STEP_100 = {"name": "step", "step_epochs": 100, "factor": 0.2}
STEP_150 = {"name": "step", "step_epochs": 150, "factor": 0.1}
ALL_AUGMENTED = {"name": "cifar10", "train_fraction": 1.0, "augment": True}
ALL_PLAIN = {"name": "cifar10", "train_fraction": 1.0, "augment": False}
SUBSET = {"name": "cifar10", "train_fraction": 0.05, "augment": True}


def kd(alpha: float, temperature: float) -> dict[str, Any]:
    return {"kd": {"alpha": alpha, "temperature": temperature, "reduction": "mean"}}


def cnn(dataset: dict[str, Any], dropout: float, num_epochs: int) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "student": {"name": "cnn", "num_channels": 32, "dropout": dropout},
        "loss": {"ce": {}},
        "optimizer": ADAM,
        "schedule": STEP_100,
        "batch_size": 128,
        "num_epochs": num_epochs,
        "seed": 230,
    }


def resnet18(num_epochs: int) -> dict[str, Any]:
    return {
        "dataset": ALL_AUGMENTED,
        "student": {"name": "resnet18"},
        "loss": {"ce": {}},
        "optimizer": SGD,
        "schedule": STEP_150,
        "batch_size": 128,
        "num_epochs": num_epochs,
        "seed": 230,
    }


def flat(
    model_version: str,
    subset_percent: float,
    augmentation: str,
    teacher: str,
    alpha: float,
    temperature: float,
    learning_rate: float,
    num_epochs: int,
    dropout_rate: float,
) -> dict[str, Any]:
    return {
        "model_version": model_version,
        "subset_percent": subset_percent,
        "augmentation": augmentation,
        "teacher": teacher,
        "alpha": alpha,
        "temperature": temperature,
        "learning_rate": learning_rate,
        "batch_size": 128,
        "num_epochs": num_epochs,
        "dropout_rate": dropout_rate,
        "num_channels": 32,
        "save_summary_steps": 100,
        "num_workers": 4,
    }


BASE_WRN = {
    "model_version": "wrn",
    "learning_rate": 0.1,
    "batch_size": 128,
    "num_epochs": 200,
    "dropout_rate": 0.5,
    "num_channels": 32,
    "save_summary_steps": 100,
    "num_workers": 4,
}

BASE_RESNET18 = {"teacher": "experiments/base_resnet18"}

FOLDERS = {
    "base_cnn": (flat("cnn", 1.0, "no", "none", 0, 1, 1e-3, 30, 0.5), cnn(ALL_PLAIN, 0.5, 30)),
    "base_cnn/nodropout": (flat("cnn", 1.0, "yes", "resnet18", 0, 1, 1e-3, 30, 0.0), cnn(ALL_AUGMENTED, 0.0, 30)),
    "base_cnn_subset": (flat("cnn", 0.05, "yes", "none", 0.0, 1, 1e-3, 50, 0.0), cnn(SUBSET, 0.0, 50)),
    "base_resnet18": (flat("resnet18", 1.0, "yes", "none", 0.0, 1, 0.1, 200, 0.5), resnet18(200)),
    "base_wrn": (BASE_WRN, resnet18(200) | {"student": {"name": "wrn", "depth": 28, "width": 10, "dropout": 0.5}}),
    "cnn_distill": (
        flat("cnn_distill", 1.0, "yes", "resnet18", 0.9, 20, 1e-3, 30, 0.5),
        cnn(ALL_AUGMENTED, 0.5, 30) | BASE_RESNET18 | {"loss": kd(0.9, 20)},
    ),
    "cnn_distill/nodropout": (
        flat("cnn_distill", 1.0, "yes", "resnet18", 0.9, 20, 1e-3, 30, 0.0),
        cnn(ALL_AUGMENTED, 0.0, 30) | BASE_RESNET18 | {"loss": kd(0.9, 20)},
    ),
    "cnn_distill/noaug_nodrop": (
        flat("cnn_distill", 1.0, "no", "resnet18", 0.9, 20, 1e-3, 30, 0.0),
        cnn(ALL_PLAIN, 0.0, 30) | BASE_RESNET18 | {"loss": kd(0.9, 20)},
    ),
    "cnn_distill_alpha_temp": (
        flat("cnn_distill", 1.0, "yes", "resnet18", 0.9, 20, 1e-3, 30, 0.5),
        cnn(ALL_AUGMENTED, 0.5, 30) | BASE_RESNET18 | {"loss": kd(0.9, 20)},
    ),
    "cnn_distill_nodropout_alpha_temp": (
        flat("cnn_distill", 1.0, "yes", "resnet18", 0.9, 20, 1e-3, 30, 0.0),
        cnn(ALL_AUGMENTED, 0.0, 30) | BASE_RESNET18 | {"loss": kd(0.9, 20)},
    ),
    "cnn_distill_subset": (
        flat("cnn_distill", 0.05, "yes", "resnet18", 0.95, 2, 1e-3, 50, 0.0),
        cnn(SUBSET, 0.0, 50) | BASE_RESNET18 | {"loss": kd(0.95, 2)},
    ),
    "resnet18_distill/densenet_teacher": (
        flat("resnet18_distill", 1.0, "yes", "densenet", 0.95, 6, 0.1, 200, 0.0),
        resnet18(200) | {"teacher": "experiments/base_densenet", "loss": kd(0.95, 6)},
    ),
    "resnet18_distill/preresnet_teacher": (
        flat("resnet18_distill", 1.0, "yes", "preresnet110", 0.95, 6, 0.1, 170, 0.0),
        resnet18(170) | {"teacher": "experiments/base_preresnet", "loss": kd(0.95, 6)},
    ),
    "resnet18_distill/resnext_teacher": (
        flat("resnet18_distill", 1.0, "yes", "resnext29", 0.95, 6, 0.1, 175, 0.0),
        resnet18(175) | {"teacher": "experiments/base_resnext29", "loss": kd(0.95, 6)},
    ),
    "resnet18_distill/wrn_teacher": (
        flat("resnet18_distill", 1.0, "yes", "wrn", 0.95, 6, 0.1, 170, 0.0),
        resnet18(170) | {"teacher": "experiments/base_wrn", "loss": kd(0.95, 6)},
    ),
}

DISTILL = FOLDERS["cnn_distill"][0]


@pytest.mark.parametrize(("raw", "nested"), FOLDERS.values(), ids=FOLDERS.keys())
def test_flat_params_are_converted(raw: dict[str, Any], nested: dict[str, Any]) -> None:
    assert nested_from_flat(raw) == nested


@pytest.mark.parametrize("raw", [raw for raw, _ in FOLDERS.values()], ids=FOLDERS.keys())
def test_converted_params_fit_the_schema(raw: dict[str, Any]) -> None:
    parse_params(raw, Path("params.json"))


@pytest.mark.parametrize("missing", [("augmentation",), ("augmentation", "subset_percent")])
def test_older_grids_without_these_keys_used_all_images_augmented(missing: tuple[str, ...]) -> None:
    child = {key: value for key, value in DISTILL.items() if key not in missing} | {"alpha": 0.05, "temperature": 4.5}
    assert nested_from_flat(child) == cnn(ALL_AUGMENTED, 0.5, 30) | BASE_RESNET18 | {"loss": kd(0.05, 4.5)}


def test_a_subset_grid_without_augmentation_keeps_its_subset() -> None:
    child = {key: value for key, value in FOLDERS["cnn_distill_subset"][0].items() if key != "augmentation"}
    assert nested_from_flat(child)["dataset"] == SUBSET


@pytest.mark.parametrize(("value", "augment"), [("yes", True), ("no", False), (True, True), (False, False)])
def test_augmentation_may_be_yes_no_or_a_boolean(value: str | bool, augment: bool) -> None:
    assert nested_from_flat(DISTILL | {"augmentation": value})["dataset"]["augment"] is augment


def test_keys_with_the_same_value_in_all_files_may_be_missing() -> None:
    rest = ("teacher", "batch_size", "num_channels", "save_summary_steps", "num_workers", "alpha", "temperature")
    short = {key: value for key, value in FOLDERS["base_cnn"][0].items() if key not in rest}
    assert nested_from_flat(short) == cnn(ALL_PLAIN, 0.5, 30)


def test_a_resnet_needs_no_dropout_rate() -> None:
    short = {key: value for key, value in FOLDERS["base_resnet18"][0].items() if key != "dropout_rate"}
    assert nested_from_flat(short) == resnet18(200)


def test_val_size_of_a_flat_file_is_that_of_its_data_set() -> None:
    assert nested_from_flat(DISTILL | {"val_size": 0})["dataset"] == ALL_AUGMENTED | {"val_size": 0}


def test_the_flat_object_is_not_changed() -> None:
    before = copy.deepcopy(DISTILL)
    nested_from_flat(DISTILL)
    assert before == DISTILL


def test_a_file_with_model_version_is_flat() -> None:
    assert is_flat(DISTILL)


@pytest.mark.parametrize("raw", [{}, {"student": {"name": "cnn"}}, DISTILL | {"student": {"name": "cnn"}}])
def test_a_file_with_a_nested_object_or_without_model_version_is_not_flat(raw: dict[str, Any]) -> None:
    assert not is_flat(raw)


VERSIONS = "should be 'cnn', 'cnn_distill', 'resnet18', 'resnet18_distill' or 'wrn'"
TEACHERS = "should be 'resnet18', 'wrn', 'densenet', 'resnext29', 'preresnet110' or 'none'"
KEYS = (
    "model_version, subset_percent, augmentation, teacher, alpha, temperature, learning_rate, batch_size, num_epochs, "
    "dropout_rate, num_channels, val_size, save_summary_steps, num_workers"
)

ERRORS = [
    ({"model_version": "cnn_distil"}, f'model_version: {VERSIONS}, got "cnn_distil", did you mean "cnn_distill"?'),
    ({"model_version": "vgg"}, f'model_version: {VERSIONS}, got "vgg"'),
    ({"model_version": "wrn_distill"}, f'model_version: {VERSIONS}, got "wrn_distill", did you mean "cnn_distill"?'),
    ({"model_version": 18}, f"model_version: {VERSIONS}, got 18"),
    ({"teacher": "resnet81"}, f'teacher: {TEACHERS}, got "resnet81", did you mean "resnet18"?'),
    ({"teacher": ["resnet18"]}, f'teacher: {TEACHERS}, got ["resnet18"], did you mean "resnet18"?'),
    (
        {"teacher": "none"},
        "teacher: cnn_distill needs a teacher, got none; known: resnet18, wrn, densenet, resnext29, preresnet110",
    ),
    ({"augmentation": "maybe"}, 'augmentation: should be "yes", "no", true or false, got "maybe"'),
    ({"augmentation": "Yes"}, 'augmentation: should be "yes", "no", true or false, got "Yes"'),
    ({"augmentation": 1}, 'augmentation: should be "yes", "no", true or false, got 1'),
    (
        {"temprature": 4},
        f'temprature: unknown key, did you mean "temperature"?; known: {KEYS}',
    ),
    ({"zzz": 4}, f"zzz: unknown key; known: {KEYS}"),
    ({"temperature": "4"}, 'temperature: should be a valid number, got "4"'),
    ({"alpha": True}, "alpha: should be a valid number, got true"),
    ({"learning_rate": "0.1"}, 'learning_rate: should be a valid number, got "0.1"'),
    ({"num_epochs": 30.5}, "num_epochs: should be a valid integer, got 30.5"),
    ({"batch_size": "128"}, 'batch_size: should be a valid integer, got "128"'),
    ({"dropout_rate": "none"}, 'dropout_rate: should be a valid number, got "none"'),
    ({"num_channels": None}, "num_channels: should be a valid integer, got null"),
    ({"save_summary_steps": "often"}, 'save_summary_steps: should be a valid integer, got "often"'),
    ({"num_workers": []}, "num_workers: should be a valid integer, got []"),
    ({"subset_percent": 5}, "subset_percent: should be less than or equal to 1, got 5"),
    ({"subset_percent": 0}, "subset_percent: should be greater than 0, got 0"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[str(change) for change, _ in ERRORS])
def test_the_error_of_a_wrong_value_names_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        nested_from_flat(DISTILL | change)
    assert (str(caught.value), caught.value.key) == (message, next(iter(change)))


MISSING = [
    ("learning_rate", "learning_rate: this key is needed"),
    ("num_epochs", "num_epochs: this key is needed"),
    ("alpha", "alpha: cnn_distill needs this key"),
    ("temperature", "temperature: cnn_distill needs this key"),
    ("dropout_rate", "dropout_rate: cnn_distill needs this key"),
    (
        "teacher",
        "teacher: cnn_distill needs a teacher, got none; known: resnet18, wrn, densenet, resnext29, preresnet110",
    ),
]


@pytest.mark.parametrize(("key", "message"), MISSING)
def test_a_required_key_that_is_missing_is_an_error(key: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        nested_from_flat({name: value for name, value in DISTILL.items() if name != key})
    assert str(caught.value) == message


def test_the_error_names_the_file() -> None:
    with pytest.raises(UserError, match=r"^experiments/cnn/params\.json: augmentation: should be"):
        parse_params(DISTILL | {"augmentation": "maybe"}, Path("experiments/cnn/params.json"))
