"""Which folders are runs, and what is read from their files, broken and old ones included."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.home import ROOT
from model.report.collect import RunRecord, collect_runs

from .conftest import MakeRun, write

FLAT = {
    "model_version": "cnn",
    "subset_percent": 1.0,
    "augmentation": "yes",
    "learning_rate": 0.001,
    "num_epochs": 30,
    "dropout_rate": 0.5,
}


def only_run(parent_dir: Path) -> RunRecord:
    (run,) = collect_runs(parent_dir)
    return run


def paths(parent_dir: Path) -> list[str]:
    return [run.path for run in collect_runs(parent_dir)]


# Which folders ------------------------------------------------------------------------------------------------------


def test_runs_come_in_natural_order_of_their_paths(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for name in ("run_10", "run_2", "run_1", "b/run_3", "alpha_0.5_temperature_10", "alpha_0.5_temperature_4.5"):
        make_run(name, params=cnn)
    assert paths(tmp_path) == [
        "alpha_0.5_temperature_4.5",
        "alpha_0.5_temperature_10",
        "b/run_3",
        "run_1",
        "run_2",
        "run_10",
    ]


def test_the_parent_itself_and_runs_inside_runs_are_found(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    for name in (".", "cnn", "cnn/nodropout"):
        make_run(name, params=cnn)
    assert paths(tmp_path) == [".", "cnn", "cnn/nodropout"]


@pytest.mark.parametrize("name", [".git", ".cache", "tensorboard", "evaluation"])
def test_folders_that_hold_no_runs_are_skipped(
    name: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn)
    make_run(f"cnn/{name}/inside", params=cnn)
    assert paths(tmp_path) == ["cnn"]


def test_a_folder_of_generations_is_no_run(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("born_again", params=cnn | {"generations": 2})
    make_run("born_again/gen_0", params=cnn)
    assert paths(tmp_path) == ["born_again/gen_0"]


def test_a_folder_whose_generations_are_null_is_a_run(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn | {"generations": None})
    assert paths(tmp_path) == ["cnn"]


def test_a_searchs_folder_is_no_run(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    write(make_run("search", params=cnn) / "search.json", {"method": "grid"})
    make_run("search/alpha_0.5", params=cnn)
    assert paths(tmp_path) == ["search/alpha_0.5"]


def test_a_searchs_folder_with_results_of_its_own_is_a_run(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    write(make_run("search", params=cnn, run=finished) / "search.json", {"method": "grid"})
    assert paths(tmp_path) == ["search"]


@pytest.mark.parametrize(
    "file",
    ["params.json", "run.json", "metrics.jsonl", "metrics_val_last_weights.json", "metrics_test_best_weights.json"],
)
def test_one_file_of_a_run_makes_a_folder_a_run(file: str, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    write(tmp_path / "some" / file, {})
    assert paths(tmp_path) == ["some"]


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError) as caught:
        collect_runs(tmp_path)
    assert str(caught.value) == f"no runs under {tmp_path}: no folder in it holds a params.json or metrics"


def test_the_error_of_a_missing_folder_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    with pytest.raises(UserError) as caught:
        collect_runs(tmp_path / "experiment")
    assert str(caught.value) == f'{tmp_path}/experiment: no such folder, did you mean "experiments"?'


def test_a_folder_whose_parent_is_missing_too_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none/experiments: no such folder$"):
        collect_runs(tmp_path / "none" / "experiments")


# Parameters ---------------------------------------------------------------------------------------------------------


def test_resolved_params_take_precedence_over_params_json(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, resolved=cnn | {"student": {"name": "cnn", "num_channels": 8, "dropout": 0.5}})
    assert only_run(tmp_path).params["student.dropout"] == 0.5


def test_without_resolved_params_the_schema_fills_in_its_defaults(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn)
    params = only_run(tmp_path).params
    assert (params["loss"], params["schedule"], params["batch_size"]) == ("ce", "constant", 128)


def test_written_holds_the_paths_of_params_json(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn | {"teacher": "experiments/base", "loss": {"kd": {"alpha": 0.9}}})
    assert only_run(tmp_path).written == {
        "dataset",
        "student",
        "student.num_channels",
        "teacher",
        "loss",
        "loss.kd.alpha",
        "optimizer",
        "optimizer.learning_rate",
        "num_epochs",
    }


@pytest.mark.parametrize("teacher", ["experiments/base", ["experiments/base"], {"model_dir": "experiments/base"}])
def test_a_teacher_in_every_form_is_under_its_own_key(
    teacher: Any, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn | {"teacher": teacher})
    assert only_run(tmp_path).params["teacher"] == ["experiments/base"]


def test_flat_params_are_converted(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("cnn", params=FLAT)
    params = only_run(tmp_path).params
    assert (params["student"], params["student.dropout"], params["seed"]) == ("cnn", 0.5, 230)


# State --------------------------------------------------------------------------------------------------------------


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_the_state_is_that_of_run_json(state: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": state})
    assert only_run(tmp_path).state == state


def test_a_running_run_is_running(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": "running", "process": os.getpid(), "host": socket.gethostname()})
    assert only_run(tmp_path).state == "running"


def test_a_running_run_without_its_process_was_killed(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": "running", "process": a_dead_process(), "host": socket.gethostname()})
    assert only_run(tmp_path).state == "killed"


def test_a_folder_with_params_alone_is_new(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn)
    assert only_run(tmp_path).state == "new"


def test_the_state_of_metrics_without_run_json_is_unknown(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, val=(0.5, 0.4))
    assert only_run(tmp_path).state is None


def test_a_failed_runs_error_is_noted(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": "failed", "error": "the loss is not finite"})
    assert only_run(tmp_path).notes == ("the loss is not finite",)


def test_a_run_without_error_has_no_note(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": "finished", "error": None})
    assert only_run(tmp_path).notes == ()


# Metrics ------------------------------------------------------------------------------------------------------------


def test_metrics_are_keyed_by_split_and_weights(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, val=(0.5, 0.4), test=(0.45, 0.35))
    assert {key: values["accuracy"] for key, values in only_run(tmp_path).metrics.items()} == {
        ("val", "best"): 0.5,
        ("val", "last"): 0.4,
        ("test", "best"): 0.45,
        ("test", "last"): 0.35,
    }


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "null", '"0.5"', "[0.5]", "true"])
def test_only_finite_numbers_are_metrics(loss: str, tmp_path: Path) -> None:
    write(tmp_path / "metrics_val_best_weights.json", f'{{"accuracy": 0.5, "loss": {loss}, "num_samples": 10}}')
    run = only_run(tmp_path)
    assert (run.metrics["val", "best"], run.notes) == ({"accuracy": 0.5, "num_samples": 10}, ())


def test_completed_epochs_are_those_of_the_history(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    folder = make_run("cnn", params=cnn, run={"state": "stopped", "epoch": 1})
    write(folder / "metrics.jsonl", '{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert only_run(tmp_path).epochs == 2


def test_completed_epochs_are_those_of_run_json_without_a_history(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished)
    assert (only_run(tmp_path).epochs, only_run(tmp_path).costs["seconds"]) == (3, 12.4)


def test_costs_are_those_of_run_json(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished | {"parameters": 1234, "macs": 5678})
    assert only_run(tmp_path).costs == {"seconds": 12.4, "parameters": 1234, "macs": 5678}


def test_costs_are_none_if_run_json_lacks_them(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished)
    assert only_run(tmp_path).costs == {"seconds": 12.4}


# Legacy results -----------------------------------------------------------------------------------------------------

LEGACY_METRICS = {"accuracy": 0.8351, "loss": 0.61}


@pytest.mark.parametrize("params", [FLAT, None], ids=["flat params", "no params"])
def test_legacy_results_are_marked_as_test_results(params: Any, tmp_path: Path, make_run: MakeRun) -> None:
    write(make_run("base_cnn", params=params) / "metrics_val_best_weights.json", LEGACY_METRICS)
    run = only_run(tmp_path)
    assert (run.metrics["val", "best"], run.notes) == (LEGACY_METRICS, ("val is the test set (legacy run)",))


def test_results_of_this_project_with_flat_params_are_not_marked(
    tmp_path: Path, make_run: MakeRun, finished: dict[str, Any]
) -> None:
    make_run("base_cnn", params=FLAT, run=finished, val=(0.5, 0.5))
    assert only_run(tmp_path).notes == ()


def test_results_of_this_project_without_run_json_are_not_marked(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("base_cnn", params=FLAT, val=(0.5, 0.5))
    assert only_run(tmp_path).notes == ()


def test_flat_params_without_results_are_not_marked(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("base_cnn", params=FLAT)
    assert only_run(tmp_path).notes == ()


# Broken files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["run.json", "params_resolved.json", "metrics_val_best_weights.json", "metrics_test_last_weights.json"]
)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"accuracy": 0.', "Expecting ',' delimiter: line 1 column 15 (char 14)"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[1, 2]", "must be a JSON object, got list"),
    ],
)
def test_a_broken_file_is_noted_and_not_fatal(
    file: str, content: str, problem: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    write(make_run("cnn", params=cnn) / file, content)
    assert only_run(tmp_path).notes == (f"{file}: {problem}",)


def test_a_broken_file_loses_only_its_own_values(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    folder = make_run("cnn", params=cnn, run=finished, val=(0.5, 0.4), test=(0.45, 0.35))
    write(folder / "metrics_val_best_weights.json", "{")
    run = only_run(tmp_path)
    assert (run.metrics["val", "best"], run.metrics["val", "last"]["accuracy"]) == ({}, 0.4)


def test_a_broken_params_json_is_noted_with_line_and_column(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("cnn", params='{"dataset": }')
    run = only_run(tmp_path)
    assert (run.params, run.notes) == ({}, ("params.json: line 1, column 13: Expecting value",))


def test_a_params_json_that_does_not_fit_the_schema_is_noted(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn | {"num_epochs": "three"})
    assert only_run(tmp_path).notes == ('params.json: num_epochs: should be a valid integer, got "three"',)


def test_a_broken_params_json_leaves_the_resolved_values(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("cnn", params="{", resolved=cnn)
    assert only_run(tmp_path).params["student.num_channels"] == 8


def test_a_history_that_is_not_utf8_is_noted(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    (make_run("cnn", params=cnn) / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\n")
    assert only_run(tmp_path).notes == ("metrics.jsonl: line 1 and those after it are left out",)


@pytest.mark.parametrize("state", [2, None, ["finished"], "done"])
def test_a_state_that_there_is_not_is_new(state: Any, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": state})
    assert only_run(tmp_path).state == "new"


def test_a_number_that_is_too_large_is_left_out(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run={"state": "finished", "macs": 10**400, "seconds": 3.0})
    run = only_run(tmp_path)
    assert run.costs == {"seconds": 3.0}


@pytest.mark.parametrize("file", ["run.json", "params_resolved.json", "metrics.jsonl", "metrics_val_best_weights.json"])
def test_a_file_that_is_nested_too_deeply_is_noted(
    file: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    write(make_run("cnn", params=cnn) / file, "[" * 100_000 + "\n")
    (note,) = only_run(tmp_path).notes
    assert note.startswith(f"{file}: ")


def test_the_state_of_a_broken_run_json_is_unknown(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, run="{")
    assert only_run(tmp_path).state is None


# Imports ------------------------------------------------------------------------------------------------------------


def test_reports_are_made_without_torch() -> None:
    program = "import sys, json, synthesize_results; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) is False
