"""docs/params.schema.json agrees with the code, accepts every shipped params.json, and rejects wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.commands.preflight import check_experiment
from model.config.legacy import is_flat
from model.config.params import Params, parse_params
from model.docs.params_schema import PAGE, params_schema
from model.home import ROOT
from model.registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry

SHIPPED = {
    str(file.parent.relative_to(ROOT)): params
    for file in sorted((ROOT / "experiments").rglob("params.json"))
    if not is_flat(params := json.loads(file.read_text(encoding="utf-8")))
}

GOOD: dict[str, Any] = {
    "dataset": {"name": "cifar10"},
    "student": {"name": "cnn", "num_channels": 8},
    "teacher": ["../a", "../b"],
    "loss": {"kd": {"alpha": 0.5}, "ce": {"weight": 0.1}},
    "optimizer": {"name": "adam", "betas": [0.8, 0.9]},
    "schedule": {"name": "multistep", "milestones": [10, 20]},
    "gradient_clip": 1,
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(params_schema())


def test_the_schema_is_valid_json_schema() -> None:
    Draft202012Validator.check_schema(params_schema())


def test_the_file_is_up_to_date() -> None:
    written = json.loads(PAGE.path.read_text(encoding="utf-8"))

    assert written == json.loads(json.dumps(params_schema())), "the code has changed: run make docs"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_is_valid(name: str, validator: Draft202012Validator) -> None:
    validator.validate(SHIPPED[name])


@pytest.mark.parametrize("teacher", ["../a", ["../a", "../b"], {"model_dir": "../a"}, {"model_dir": ["../a"]}, None])
def test_every_form_of_a_teacher_is_valid(teacher: Any, validator: Draft202012Validator) -> None:
    validator.validate(GOOD | {"teacher": teacher})


@pytest.mark.parametrize(
    "option", [{"weights": "last"}, {"combine": "logits"}, {"cache": False}, {"cache_top_k": 5}], ids=str
)
def test_every_option_of_a_teacher_is_valid(option: dict[str, Any], validator: Draft202012Validator) -> None:
    validator.validate(GOOD | {"teacher": {"model_dir": ["../a", "../b"], **option}})


WRONG: dict[str, dict[str, Any]] = {
    "an unknown key": GOOD | {"studnet": {}},
    "no student": {"dataset": {"name": "cifar10"}},
    "a string for a component": GOOD | {"student": "cnn"},
    "a component without a name": GOOD | {"student": {"num_channels": 8}},
    "an unknown network": GOOD | {"student": {"name": "cnm"}},
    "an unknown library": GOOD | {"student": {"name": "tim/resnet18"}},
    "a library without a network": GOOD | {"student": {"name": "timm/"}},
    "an unknown option of a library": GOOD | {"student": {"name": "timm/resnet18", "pretraind": True}},
    "an option of another network": GOOD | {"student": {"name": "resnet18", "num_channels": 8}},
    "an option of the wrong type": GOOD | {"student": {"name": "cnn", "num_channels": "8"}},
    "a missing option": GOOD | {"schedule": {"name": "multistep"}},
    "an unknown loss": GOOD | {"loss": {"kdd": {}}},
    "an unknown option of a loss": GOOD | {"loss": {"kd": {"temprature": 4}}},
    "an unknown choice": GOOD | {"loss": {"kd": {"reduction": "sum"}}},
    "no loss": GOOD | {"loss": {}},
    "too few values": GOOD | {"optimizer": {"name": "adam", "betas": [0.9]}},
    "no teachers": GOOD | {"teacher": []},
    "an unknown way to combine teachers": GOOD | {"teacher": {"model_dir": ["../a", "../b"], "combine": "votes"}},
    "batch size 0": GOOD | {"batch_size": 0},
    "an unknown precision": GOOD | {"precision": "float16"},
}


@pytest.mark.parametrize("name", ["torchvision/resnet34", "timm/convnext_atto.d2_in1k"])
def test_a_network_of_another_library_is_valid(name: str, validator: Draft202012Validator) -> None:
    validator.validate(GOOD | {"student": {"name": name, "pretrained": True}})


def test_a_good_file_is_valid(validator: Draft202012Validator) -> None:
    validator.validate(GOOD)


@pytest.mark.parametrize("params", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_not_valid(params: dict[str, Any], validator: Draft202012Validator) -> None:
    assert not validator.is_valid(params)


@pytest.mark.parametrize(
    ("key", "registry"),
    [("dataset", DATASETS), ("student", NETS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)],
)
def test_every_registered_name_is_in_the_schema(key: str, registry: Registry[Any]) -> None:
    names = [choice["properties"]["name"] for choice in params_schema()["properties"][key]["oneOf"]]

    assert [name["const"] for name in names if "const" in name] == registry.names()
    assert [name["pattern"] for name in names if "pattern" in name] == [
        f"^{prefix}/." for prefix in registry.families()
    ]


def test_every_registered_loss_is_in_the_schema() -> None:
    assert list(params_schema()["properties"]["loss"]["properties"]) == LOSSES.names()


@pytest.mark.parametrize("key", params_schema()["properties"])
def test_every_key_has_a_description(key: str) -> None:
    assert params_schema()["properties"][key]["description"]


MINIMAL: dict[str, Any] = {"dataset": {"name": "cifar10"}, "student": {"name": "cnn"}}


def resolved(params: dict[str, Any]) -> Params:
    path = ROOT / "params.json"
    experiment = Experiment(
        path.parent, Runtime(device=torch.device("cpu"), data_dir=Path("data")), params=parse_params(params, path)
    )
    check_experiment(experiment)
    return experiment.params


def test_the_defaults_of_keys_are_those_of_the_code() -> None:
    defaults = {key: value["default"] for key, value in params_schema()["properties"].items() if "default" in value}

    assert resolved(MINIMAL | defaults) == resolved(MINIMAL)


@pytest.mark.parametrize(("key", "name"), [("schedule", "onecycle"), ("optimizer", "adam"), ("student", "cnn")])
def test_the_defaults_of_options_are_those_of_the_code(key: str, name: str) -> None:
    choices = {
        choice["properties"]["name"].get("const"): choice for choice in params_schema()["properties"][key]["oneOf"]
    }
    defaults = {option: value["default"] for option, value in choices[name]["properties"].items() if option != "name"}

    assert resolved(MINIMAL | {key: {"name": name, **defaults}}) == resolved(MINIMAL | {key: {"name": name}})
