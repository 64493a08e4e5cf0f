"""The DataFrame of all runs; every expected value is typed by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from model.errors import UserError
from model.home import ROOT
from model.report.dataframe import results

from .conftest import MakeRun, write


@pytest.fixture
def two_runs(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """A finished run with teachers, and one that is new."""
    kd = cnn | {"teacher": ["one", "two"], "loss": {"kd": {"alpha": 0.9, "temperature": 4}}, "seed": 7}
    exits = {"loss": 0.61, "exit_10_accuracy": 0.7, "exit_2_accuracy": 0.5}
    run = finished | {"parameters": 1234, "macs": 5678}
    make_run("run_2", params=kd, run=run, val=(0.75, 0.5), test=(0.625, 0.25), more=exits)
    make_run("run_10", params=cnn)
    return tmp_path


def test_a_row_is_a_run_in_natural_order_of_the_paths(two_runs: Path) -> None:
    table = results(two_runs)
    assert (table.index.name, list(table.index)) == ("path", ["run_2", "run_10"])


def test_parameters_are_columns_under_their_dotted_paths(two_runs: Path) -> None:
    row = results(two_runs).loc["run_2"]
    expected = {
        "dataset": "cifar10",
        "student": "cnn",
        "student.num_channels": 8,
        "teacher": "one, two",
        "teacher.weights": "best",
        "loss": "kd",
        "loss.kd.alpha": 0.9,
        "loss.kd.temperature": 4,
        "optimizer": "adam",
        "optimizer.learning_rate": 0.001,
        "schedule": "constant",
        "batch_size": 128,
        "num_epochs": 3,
        "seed": 7,
    }
    assert {path: row[path] for path in expected} == expected


def test_metrics_are_columns_named_by_split_and_weights(two_runs: Path) -> None:
    row = results(two_runs).loc["run_2"]
    expected = {
        "val_best_accuracy": 0.75,
        "val_last_accuracy": 0.5,
        "test_best_accuracy": 0.625,
        "test_last_accuracy": 0.25,
        "val_best_epoch": 3,
        "test_last_num_samples": 10_000,
        "val_best_loss": 0.61,
        "val_best_exit_2_accuracy": 0.5,
        "val_best_exit_10_accuracy": 0.7,
    }
    assert {name: row[name] for name in expected} == expected


def test_state_and_costs_are_columns(two_runs: Path) -> None:
    table = results(two_runs)
    assert table["state"].to_list() == ["finished", "new"]
    row = table.loc["run_2"]
    assert [row[name] for name in ("epochs", "seconds", "parameters", "macs")] == [3, 12.4, 1234, 5678]


def test_columns_are_parameters_in_the_order_of_the_schema_then_results(two_runs: Path) -> None:
    columns = list(results(two_runs).columns)
    start, end = columns.index("state"), columns.index("epochs")
    assert columns[:5] == ["description", "dataset", "student", "student.num_channels", "teacher"]
    assert columns[start + 1 : start + 7] == [
        "val_best_accuracy",
        "val_best_epoch",
        "val_best_exit_2_accuracy",
        "val_best_exit_10_accuracy",
        "val_best_loss",
        "val_best_num_samples",
    ]
    assert columns[end:] == [
        *("epochs", "seconds", "parameters", "macs", "latency_ms", "images_per_second", "peak_memory_bytes"),
        *("data", "teacher_weights", "val_seen", "notes"),
    ]


def test_what_a_run_does_not_have_is_nan(two_runs: Path) -> None:
    row = results(two_runs).loc["run_10"]
    for name in ("loss.kd.alpha", "test_best_accuracy", "val_best_loss", "epochs", "macs"):
        assert math.isnan(row[name]), name


def test_numbers_are_numbers_even_if_no_run_has_them(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("new", params=cnn)
    table = results(tmp_path)
    names = [f"{split}_{weights}_accuracy" for split in ("val", "test") for weights in ("best", "last")]
    for name in (*names, "epochs", "seconds", "parameters", "macs"):
        assert pd.api.types.is_float_dtype(table[name]), name


def test_rows_can_be_grouped_by_lists(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for teacher, accuracies in {"one": (0.5, 0.75), "two": (0.25, 0.5)}.items():
        for seed, accuracy in enumerate(accuracies):
            params = cnn | {"teacher": [teacher], "seed": seed}
            make_run(f"{teacher}_{seed}", params=params, run=finished, test=(accuracy, 0.1))
    means = results(tmp_path).groupby("teacher")["test_best_accuracy"].mean()
    assert means.to_dict() == {"one": 0.625, "two": 0.375}


def test_notes_are_text(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("a", params=cnn)
    folder = make_run("b", params=cnn, run={"state": "failed", "error": "the loss is not finite"})
    write(folder / "metrics_val_best_weights.json", "[1]")
    assert results(tmp_path)["notes"].to_list() == [
        "",
        "the loss is not finite; metrics_val_best_weights.json: must be a JSON object, got list",
    ]


def test_choice_of_a_search_is_a_column(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    choices = {"small": {"student.num_channels": 4}, "large": {"student.num_channels": 8}}
    write(tmp_path / "search.json", {"parameters": {"size": {"choices": choices}}})
    write(tmp_path / "params.json", cnn)
    make_run("size_large", params=cnn)
    table = results(tmp_path)
    assert (table.columns[0], table.loc["size_large", "size"]) == ("size", "large")


def test_path_may_be_text(two_runs: Path) -> None:
    assert len(results(str(two_runs))) == 2


def test_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs under"):
        results(tmp_path)


def test_torch_is_not_imported(two_runs: Path) -> None:
    program = (
        "import sys; from model.report.dataframe import results; "
        f"print(len(results({str(two_runs)!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "2 False\n"
