"""The lines below a table that say what makes its rows incomparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.report.tables import results_table
from tests.report.markdown_tables import notes

from .conftest import MakeRun, write


@pytest.fixture
def make_pair(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Any:
    """Two finished runs that differ in some of params.json and run.json; returns the notes of their table."""

    def make(params: dict[str, Any] | None = None, run: dict[str, Any] | None = None, base: Any = None) -> list[str]:
        both = cnn | {"teacher": "base"} | (base or {})
        make_run("a", params=both, run=finished | {"seen": {"base": {"val": 0}}}, val=(0.5, 0.5), test=(0.5, 0.5))
        make_run("b", params=both | (params or {}), run=finished | (run or {}), val=(0.5, 0.5), test=(0.5, 0.5))
        return notes(results_table(tmp_path))

    return make


def test_comparable_rows_have_no_notes(make_pair: Any) -> None:
    assert make_pair({"seed": 1, "optimizer": {"name": "sgd"}, "loss": {"kd": {}}}) == []


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"dataset": {"name": "cifar100"}}, "the data set (dataset cifar10, cifar100)"),
        ({"dataset": {"name": "cifar10", "val_size": 100}}, "what is held out for val (val_size null, 100)"),
        ({"dataset": {"name": "cifar10", "split_seed": 1}}, "what is held out for val (split_seed null, 1)"),
        ({"dataset": {"name": "cifar10", "train_fraction": 0.5}}, "the training images (train_fraction null, 0.5)"),
        ({"dataset": {"name": "cifar10", "cutout": 8}}, "augmentation (cutout null, 8)"),
        ({"dataset": {"name": "cifar10", "path": "x"}}, "the data set (path null, x)"),
        ({"num_epochs": 9}, "the number of epochs (num_epochs 3, 9)"),
    ],
)
def test_what_rows_were_trained_on_is_compared(params: dict[str, Any], text: str, make_pair: Any) -> None:
    assert make_pair(params) == [f"Rows differ in {text}."]


def test_several_differences_are_one_line(make_pair: Any) -> None:
    (line,) = make_pair({"dataset": {"name": "cifar10", "cutout": 8}, "num_epochs": 9})
    assert line == "Rows differ in augmentation (cutout null, 8); the number of epochs (num_epochs 3, 9)."


def test_differences_are_in_the_order_of_the_parameters(make_pair: Any) -> None:
    base = {"dataset": {"name": "cifar10", "val_size": 9, "split_seed": 1, "augment": True, "cutout": 2}}
    (line,) = make_pair({"dataset": {"name": "cifar10", "val_size": 8, "split_seed": 2, "augment": False}}, base=base)
    held_out = "what is held out for val (val_size 9, 8); what is held out for val (split_seed 1, 2)"
    assert line == f"Rows differ in {held_out}; augmentation (augment true, false); augmentation (cutout 2, null)."


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"fingerprint": {"train": {"content": "2"}}}, "Rows differ in the content of the data set cifar10."),
        ({"teacher": {"base": "2222"}}, "Rows differ in the weights of the teacher base."),
    ],
)
def test_data_and_teachers_of_one_name_are_compared_by_content(
    run: dict[str, Any],
    line: str,
    make_pair: Any,
    make_run: MakeRun,
    cnn: dict[str, Any],
    finished: dict[str, Any],
) -> None:
    other = {"fingerprint": {"train": {"content": "1"}}, "teacher": {"base": "1111"}}
    first = {key: other[key] for key in run}
    make_run("c", params=cnn | {"teacher": "base"}, run=finished | first, val=(0.5, 0.5))
    assert make_pair(run=run) == [line]


def test_teacher_that_has_seen_val_is_told(make_pair: Any) -> None:
    line = "Accuracy on val flatters 1 of 2 runs: a teacher has seen images of val in training."
    assert make_pair(run={"seen": {"base": {"val": 500, "test": 0}}}) == [line]


def test_results_of_the_ancestor_are_told(tmp_path: Path, make_run: MakeRun) -> None:
    flat = {"model_version": "cnn", "learning_rate": 0.001, "num_epochs": 30, "dropout_rate": 0.5}
    old = make_run("old", params=flat)
    for weights in ("best", "last"):
        write(old / f"metrics_val_{weights}_weights.json", {"accuracy": 0.83515, "loss": 0.0})
    assert notes(results_table(tmp_path)) == ["The epoch was chosen on the test images in all rows."]


def test_runs_without_results_are_not_compared(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("done", params=cnn, run=finished, val=(0.5, 0.5))
    make_run("new", params=cnn | {"num_epochs": 9})
    assert notes(results_table(tmp_path)) == []


def test_option_that_an_earlier_version_did_not_have_is_one_that_is_off(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    earlier = cnn | {"dataset": {"name": "cifar10", "val_size": 5000}}
    later = cnn | {"dataset": {"name": "cifar10", "val_size": 5000, "cutout": 0, "alternating_flip": False}}
    for name, params in (("earlier", earlier), ("later", later)):
        make_run(name, params=cnn, resolved=params, run=finished, val=(0.5, 0.5))
    assert notes(results_table(tmp_path)) == []
