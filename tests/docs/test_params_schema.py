"""docs/params.schema.json is what the code says, takes every shipped params.json, and refuses wrong ones."""

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
from model.docs.params_schema import SCHEMA_FILE, arguments, schema
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
    return Draft202012Validator(schema())


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_file_is_up_to_date() -> None:
    written = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))

    assert written == json.loads(json.dumps(schema())), "the code has changed: python -m model.docs.params_schema"


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
    "an unknown mean of teachers": GOOD | {"teacher": {"model_dir": ["../a", "../b"], "combine": "votes"}},
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
def test_every_registered_name_is_offered(key: str, registry: Registry[Any]) -> None:
    names = [choice["properties"]["name"] for choice in schema()["properties"][key]["oneOf"]]

    assert [name["const"] for name in names if "const" in name] == registry.names()
    assert [name["pattern"] for name in names if "pattern" in name] == [f"^{each}/." for each in registry.families()]


def test_every_registered_loss_is_offered() -> None:
    assert list(schema()["properties"]["loss"]["properties"]) == LOSSES.names()


@pytest.mark.parametrize("key", schema()["properties"])
def test_every_key_is_explained(key: str) -> None:
    assert schema()["properties"][key]["description"]


LEAST: dict[str, Any] = {"dataset": {"name": "cifar10"}, "student": {"name": "cnn"}}


def resolved(params: dict[str, Any]) -> Params:
    path = ROOT / "params.json"
    experiment = Experiment(
        path.parent, Runtime(device=torch.device("cpu"), data_dir=Path("data")), params=parse_params(params, path)
    )
    check_experiment(experiment)
    return experiment.params


def test_the_defaults_of_keys_are_those_of_the_code() -> None:
    defaults = {key: made["default"] for key, made in schema()["properties"].items() if "default" in made}

    assert resolved(LEAST | defaults) == resolved(LEAST)


@pytest.mark.parametrize(("key", "name"), [("schedule", "onecycle"), ("optimizer", "adam"), ("student", "cnn")])
def test_the_defaults_of_options_are_those_of_the_code(key: str, name: str) -> None:
    choices = {choice["properties"]["name"].get("const"): choice for choice in schema()["properties"][key]["oneOf"]}
    defaults = {option: made["default"] for option, made in choices[name]["properties"].items() if option != "name"}

    assert resolved(LEAST | {key: {"name": name, **defaults}}) == resolved(LEAST | {key: {"name": name}})


def test_arguments_are_read_from_a_docstring() -> None:
    def documented() -> None:
        """One line.

        More: than one.

        Args:
            alpha: Share, in [0, 1]: of the
                soft part.
            temperature: Divides.

        Raises:
            ValueError: Never.
        """

    assert arguments(documented) == {"alpha": "Share, in [0, 1]: of the soft part.", "temperature": "Divides."}
