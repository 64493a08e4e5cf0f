"""The CIFAR-100 benchmark's folders have its networks and its recipe, and its page the published accuracies."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.docs.cifar100_page import BENCHMARK, PAGE
from model.files import read_json
from model.home import ROOT
from model.registry import LOSSES
from model.report.published import PUBLISHED_FILE, first_published, read_published

PARAMETERS = read_json(BENCHMARK / "search.json")["parameters"]
PAIRS, METHODS = PARAMETERS["pair"]["choices"], PARAMETERS["method"]["choices"]
TWO_STAGES = {"ab", "fsp", "ft"}
PUBLISHED = read_published(BENCHMARK)
SLOW = {"mobilenetv2", "shufflev1", "shufflev2"}


def test_there_are_thirteen_pairs_named_by_their_networks() -> None:
    assert len(PAIRS) == 13
    for name, pair in PAIRS.items():
        teacher = read_json(ROOT / pair["teacher"] / "params.json")["student"]["name"]
        assert name == f"{teacher}-{pair['student.name']}"


def test_the_learning_rate_is_that_of_the_student() -> None:
    rates = {pair["student.name"]: pair["optimizer.learning_rate"] for pair in PAIRS.values()}
    assert rates == {student: 0.01 if student in SLOW else 0.05 for student in rates}


@pytest.mark.parametrize("folder", sorted({BENCHMARK, *(ROOT / pair["teacher"] for pair in PAIRS.values())}))
def test_teachers_and_students_have_one_recipe(folder: Path) -> None:
    params = read_json(folder / "params.json")
    assert params["optimizer"] == {
        "name": "sgd",
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "nesterov": False,
    }
    assert params["schedule"] == {"name": "multistep", "milestones": [150, 180, 210], "factor": 0.1}
    assert (params["batch_size"], params["num_epochs"], params["precision"]) == (64, 240, "float32")
    assert params["dataset"] == {"name": "cifar100", "val_size": 0}


def test_published_rows_are_of_known_methods_pairs_and_sources() -> None:
    published = read_json(BENCHMARK / PUBLISHED_FILE)
    assert {row.method for row in PUBLISHED} - TWO_STAGES <= set(METHODS)
    assert set(LOSSES.names()) >= TWO_STAGES
    assert {pair for row in PUBLISHED for pair in row.accuracies} == set(PAIRS)
    assert {row.source for row in PUBLISHED} == set(published["sources"])
    assert {pair.partition("-")[0] for pair in PAIRS} == set(published["teachers"])


@pytest.mark.parametrize(
    ("method", "pair", "percent"),
    [
        ("student", "resnet32x4-resnet8x4", 72.50),
        ("kd", "wrn_40_2-wrn_16_2", 74.92),
        ("at", "vgg13-mobilenetv2", 59.40),
        ("crd", "wrn_40_2-shufflev1", 76.05),
        ("fsp", "resnet110-resnet20", 70.11),
        ("dkd", "resnet110-resnet20", 71.06),
        ("dist", "wrn_40_2-wrn_40_1", 74.43),
        ("kd_standardized", "resnet32x4-shufflev2", 75.56),
    ],
)
def test_numbers_are_the_published_ones(method: str, pair: str, percent: float) -> None:
    assert first_published(PUBLISHED)[frozenset({method, pair})] == percent


def test_the_page_is_up_to_date() -> None:
    assert PAGE.is_up_to_date(), "published.json has changed: run make docs"
