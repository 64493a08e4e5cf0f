"""The results table: its rows, columns and files; every expected cell is typed by hand."""

from __future__ import annotations

import csv
import io
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.runs import Runs
from model.report.tables import Selection, results_table, write_results
from tests.report.markdown_tables import cells, column, headers

from .conftest import MakeRun, write


def csv_rows(parent_dir: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO((parent_dir / "results.csv").read_text(encoding="utf-8"))))


def kd(cnn: dict[str, Any], alpha: float, temperature: float) -> dict[str, Any]:
    return cnn | {"teacher": "experiments/base", "loss": {"kd": {"alpha": alpha, "temperature": temperature}}}


# Form ---------------------------------------------------------------------------------------------------------------


def test_the_whole_table(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> None:
    make_run("alpha_0.5", params=kd(cnn, 0.5, 4), run=finished, val=(0.71525, 0.7), test=(0.7012, 0.699))
    make_run("alpha_0.9", params=kd(cnn, 0.9, 4.0), run=finished, val=(0.72, 0.72), test=(0.7103, 0.71))
    assert results_table(tmp_path) == (
        "| path      | alpha   |   val best |   val last |   test best |   test last |   epochs |   seconds |\n"
        "|:----------|:--------|-----------:|-----------:|------------:|------------:|---------:|----------:|\n"
        "| alpha_0.9 | 0.9     |      72.00 |      72.00 |       71.03 |       71.00 |        3 |        12 |\n"
        "| alpha_0.5 | 0.5     |      71.53 |      70.00 |       70.12 |       69.90 |        3 |        12 |"
    )


def test_the_files_hold_the_table_and_the_raw_values(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("alpha_0.5", params=kd(cnn, 0.5, 4), run=finished, val=(0.71525, 0.7))
    make_run("alpha_0.9", params=kd(cnn, 0.9, 4), run=finished, val=(0.72, 0.72), test=(0.7103, 0.71))
    table = write_results(Runs.read(tmp_path))
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == table + "\n"
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == (
        "path,alpha,val best,val last,test best,test last,parameters,macs,epochs,seconds\n"
        "alpha_0.9,0.9,0.72,0.72,0.7103,0.71,,,3,12.4\n"
        "alpha_0.5,0.5,0.71525,0.7,,,,,3,12.4\n"
    )


def test_writing_again_gives_the_same_files(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn, val=(0.5, 0.4))
    first = write_results(Runs.read(tmp_path))
    assert write_results(Runs.read(tmp_path)) == first


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn", params=cnn)
    (tmp_path / "results.md").mkdir()
    with pytest.raises(UserError) as caught:
        write_results(Runs.read(tmp_path))
    assert str(caught.value) == f"{tmp_path}: cannot write the results here (Is a directory)"


def test_a_bar_or_a_line_break_in_a_value_does_not_break_the_table(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("a|b", params=cnn, run={"state": "failed", "error": "out of\nmemory"})
    table = results_table(tmp_path)
    assert (column(table, "path"), column(table, "note")) == (["a&#124;b"], ["out of memory"])


# Order --------------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_val_accuracy_of_the_best_weights(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("low", params=cnn, val=(0.5, 0.49), test=(0.9, 0.9))
    make_run("high", params=cnn, val=(0.7, 0.3), test=(0.1, 0.1))
    make_run("middle", params=cnn, val=(0.6, 0.6), test=(0.5, 0.5))
    assert column(results_table(tmp_path), "path") == ["high", "middle", "low"]


def test_ties_are_in_natural_order_of_paths(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for name in ("run_10", "run_9", "run_2"):
        make_run(name, params=cnn, val=(0.5, 0.5))
    assert column(results_table(tmp_path), "path") == ["run_2", "run_9", "run_10"]


def test_rows_without_val_accuracy_come_last_and_are_not_ranked_by_test(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    all_images = cnn | {"dataset": {"name": "cifar10", "val_size": 0}}
    make_run("b", params=cnn, val=(0.1, 0.1), test=(0.1, 0.1))
    make_run("a_10", params=all_images, test=(0.95, 0.95))
    make_run("a_9", params=all_images, test=(0.9, 0.9))
    table = results_table(tmp_path)
    assert (column(table, "path"), column(table, "val best")) == (["b", "a_9", "a_10"], ["10.00", "-", "-"])


# Columns ------------------------------------------------------------------------------------------------------------


def test_only_the_parameters_that_differ_are_shown(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=kd(cnn, 0.5, 1.5), run=finished)
    make_run("b", params=kd(cnn, 0.9, 10), run=finished)
    table = results_table(tmp_path)
    assert headers(table)[:4] == ["path", "alpha", "temperature", "val best"]
    assert column(table, "temperature") == ["1.5", "10"]


def test_equal_parameters_give_no_columns(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=kd(cnn, 0.5, 4), run=finished)
    make_run("b", params=kd(cnn, 0.5, 4.0), run=finished)
    assert headers(results_table(tmp_path))[:2] == ["path", "val best"]


def test_a_description_has_no_column(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn | {"description": "the first"}, run=finished)
    make_run("b", params=cnn | {"description": "the second", "checkpoint_minutes": 1.0}, run=finished)
    assert headers(results_table(tmp_path))[:2] == ["path", "val best"]


def test_a_parameter_that_a_row_does_not_have_is_a_dash(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("alone", params=cnn, run=finished)
    make_run("distilled", params=kd(cnn, 0.9, 4), run=finished)
    table = results_table(tmp_path)
    assert [row[:5] for row in cells(table)] == [
        ["path", "teacher", "loss", "alpha", "temperature"],
        ["alone", "-", "ce", "-", "-"],
        ["distilled", "experiments/base", "kd", "0.9", "4"],
    ]


def test_defaults_that_only_some_rows_have_are_not_shown(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    alone = cnn | {"loss": {"ce": {"weight": 1.0, "label_smoothing": 0.0}}, "teacher": None}
    teacher = {"model_dir": ["experiments/base"], "weights": "best"}
    distilled = cnn | {"loss": {"kd": {"weight": 1.0, "alpha": 0.9, "t_squared": True}}, "teacher": teacher}
    make_run("alone", params=cnn, resolved=alone, run=finished)
    make_run("distilled", params=kd(cnn, 0.9, 4), resolved=distilled, run=finished)
    assert headers(results_table(tmp_path))[:5] == ["path", "teacher", "loss", "alpha", "val best"]


def test_a_default_is_shown_where_another_row_differs_from_it(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    half = cnn | {"student": {"name": "cnn", "num_channels": 8, "dropout": 0.0}}
    full = cnn | {"student": {"name": "cnn", "num_channels": 8, "dropout": 0.5}}
    make_run("a", params=cnn, resolved=full, run=finished)
    make_run("b", params=half, resolved=half, run=finished)
    assert column(results_table(tmp_path), "dropout") == ["0.5", "0"]


def test_a_leaf_name_that_is_not_unique_keeps_its_path(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for name, weight in (("a", 1.0), ("b", 0.5)):
        make_run(name, params=cnn | {"loss": {"ce": {"weight": weight}, "at": {"weight": 1000}}}, run=finished)
    assert headers(results_table(tmp_path))[:2] == ["path", "loss.ce.weight"]


def test_components_are_shown_by_their_names(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn | {"student": {"name": "cnn"}, "loss": {"ce": {}}}, run=finished)
    make_run("b", params=cnn | {"student": {"name": "resnet18"}, "loss": {"ce": {}, "at": {}}}, run=finished)
    assert [row[:3] for row in cells(results_table(tmp_path))] == [
        ["path", "student", "loss"],
        ["a", "cnn", "ce"],
        ["b", "resnet18", "at + ce"],
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(1e-5, "1e-05"), (0.1, "0.1"), (True, "true"), (4.0, "4"), ([1, 2], "[1, 2]"), ("step", "step")]
)
def test_values_are_shown_as_a_user_would_type_them(
    value: Any, text: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("a", params=cnn | {"schedule": {"name": "some", "option": value}})
    make_run("b", params=cnn | {"schedule": {"name": "some", "option": 77}})
    assert column(results_table(tmp_path), "option") == [text, "77"]


def test_an_ensembles_folders_are_listed(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("a", params=cnn | {"teacher": ["one", "two"]})
    make_run("b", params=cnn | {"teacher": "one"})
    assert column(results_table(tmp_path), "teacher") == ["one, two", "one"]


def test_metrics_of_all_rows_are_shown_with_a_dash_where_missing(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn, run=finished, val=(0.7, 0.7), more={"loss": 0.91234})
    exits = {"exit_10_accuracy": 0.6, "exit_2_accuracy": 0.515, "ece": 0.0321, "per_class": [0.5, 0.6]}
    make_run("b", params=cnn, run=finished, val=(0.6, 0.6), more=exits)
    assert [[row[0], *row[5:8]] for row in cells(results_table(tmp_path))] == [
        ["path", "val ece", "val exit 2", "val exit 10"],
        ["a", "-", "-", "-"],
        ["b", "0.0321", "51.50", "60.00"],
    ]


def test_early_exits_are_columns_from_shallow_to_deep_before_their_ensemble(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    exits = {"ensemble_accuracy": 0.79, "exit_2_accuracy": 0.7469, "exit_1_accuracy": 0.6657}
    folder = make_run("multi_exit", params=cnn, run=finished, val=(0.78, 0.77), test=(0.76, 0.75), more=exits)
    on_test = {"accuracy": 0.76, "exit_1_accuracy": 0.61, "exit_2_accuracy": 0.72, "ensemble_accuracy": 0.77}
    write(folder / "metrics_test_best_weights.json", on_test)
    table = write_results(Runs.read(tmp_path))
    names = ["val exit 1", "val exit 2", "val ensemble", "test exit 1", "test exit 2", "test ensemble"]
    assert headers(table) == ["path", "val best", "val last", "test best", "test last", *names, "epochs", "seconds"]
    assert [column(table, name) for name in names] == [["66.57"], ["74.69"], ["79.00"], ["61.00"], ["72.00"], ["77.00"]]
    header, values = csv_rows(tmp_path)
    raw = ["0.6657", "0.7469", "0.79", "0.61", "0.72", "0.77"]
    assert [values[header.index(name)] for name in names] == raw


def test_loss_and_top5_are_in_the_csv_file_only(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn, run=finished, val=(0.7, 0.7), more={"loss": 0.91234, "top5_accuracy": 0.98})
    table = write_results(Runs.read(tmp_path))
    assert not {"val loss", "val top5"} & set(headers(table))
    names, values = csv_rows(tmp_path)
    assert [values[names.index(name)] for name in ("val loss", "val top5")] == ["0.91234", "0.98"]


def test_means_over_classes_are_printed_where_they_are_asked_for(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn, run=finished, val=(0.7, 0.7), more={"macro_recall": 0.61237, "macro_f1": 0.5})
    make_run("older", params=cnn, run=finished, val=(0.6, 0.6))
    assert not {"val macro recall", "val macro f1"} & set(headers(write_results(Runs.read(tmp_path))))
    for name in ("val_macro_recall", "val_best_macro_recall"):
        selection = Selection(columns=(name,), sort_by="val_best_macro_recall")
        table = write_results(Runs.read(tmp_path), selection=selection)
        (header,) = set(headers(table)) - {"path"}
        assert column(table, header) == ["61.24", "-"]


def test_a_loss_that_is_nan_is_missing(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("a", params=cnn, val=(0.7, 0.7), more={"loss": 0.5})
    make_run("b", params=cnn, val=(0.1, 0.1), more={"loss": float("nan")})
    write_results(Runs.read(tmp_path))
    names, *rows = csv_rows(tmp_path)
    assert [row[names.index("val loss")] for row in rows] == ["0.5", ""]


def test_costs_of_networks_are_shown_if_they_differ(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    sizes = {"a": {"parameters": 2_243_546, "macs": 327_599_360}, "b": {"parameters": 372_698, "macs": 65_300_000}}
    for name, size in sizes.items():
        make_run(name, params=cnn, run=finished | size)
    make_run("c", params=cnn, run=finished)
    assert [[row[0], *row[5:]] for row in cells(results_table(tmp_path))] == [
        ["path", "parameters", "macs", "epochs", "seconds"],
        ["a", "2,243,546", "327.6 M", "3", "12"],
        ["b", "372,698", "65.3 M", "3", "12"],
        ["c", "-", "-", "3", "12"],
    ]


def test_costs_of_equal_networks_are_in_the_csv_file_only(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed in (0, 1):
        make_run(
            f"seed_{seed}",
            params=cnn | {"seed": seed},
            run=finished | {"parameters": 1234, "macs": 5_600_000},
            val=(0.5, 0.5),
        )
    table = write_results(Runs.read(tmp_path), group_by_seed=True)
    assert not {"parameters", "macs"} & set(headers(table))
    names, row = csv_rows(tmp_path)
    assert [row[names.index(name)] for name in ("parameters", "macs")] == ["1234", "5600000"]


# State and notes ----------------------------------------------------------------------------------------------------


def test_finished_runs_need_no_state_column(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn, run=finished, val=(0.5, 0.5))
    assert "state" not in headers(results_table(tmp_path))


def test_unfinished_and_failed_runs_are_shown_as_such(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    here = {"state": "running", "host": socket.gethostname()}
    make_run("a_new", params=cnn)
    make_run("b_running", params=cnn, run=here | {"process": os.getpid()})
    make_run("c_stopped", params=cnn, run={"state": "stopped"}, val=(0.2, 0.1))
    make_run("d_killed", params=cnn, run=here | {"process": 2**22 + 1})  # beyond Linux's largest process id
    make_run("e_failed", params=cnn, run={"state": "failed", "error": "the loss is not finite"})
    make_run("f_finished", params=cnn, run=finished, val=(0.5, 0.4))
    make_run("g_old", params=cnn, val=(0.3, 0.3))
    assert [[row[0], row[1], row[2], row[-1]] for row in cells(results_table(tmp_path))] == [
        ["path", "state", "val best", "note"],
        ["f_finished", "finished", "50.00", "-"],
        ["g_old", "-", "30.00", "-"],
        ["c_stopped", "stopped", "20.00", "-"],
        ["a_new", "new", "-", "-"],
        ["b_running", "running", "-", "-"],
        ["d_killed", "killed", "-", "-"],
        ["e_failed", "failed", "-", "the loss is not finite"],
    ]


def test_a_broken_file_is_a_note_on_its_row(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("a", params=cnn, run=finished, val=(0.5, 0.4))
    write(make_run("b", params=cnn, run=finished) / "metrics_val_best_weights.json", "")
    assert [[row[0], row[1], row[-1]] for row in cells(results_table(tmp_path))] == [
        ["path", "val best", "note"],
        ["a", "50.00", "-"],
        ["b", "-", "metrics_val_best_weights.json: Expecting value: line 1 column 1 (char 0)"],
    ]


def test_legacy_results_have_a_note(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    flat = {"model_version": "cnn", "learning_rate": 0.001, "num_epochs": 30, "dropout_rate": 0.5}
    old = make_run("old", params=flat)
    write(old / "metrics_val_best_weights.json", {"accuracy": 0.83515, "loss": 0.0})
    write(old / "metrics_val_last_weights.json", {"accuracy": 0.83515, "loss": 0.0})
    make_run("ours", params=cnn, run=finished, val=(0.84, 0.83), test=(0.83, 0.82))
    table = results_table(tmp_path)
    assert [column(table, header) for header in ("path", "val best", "test best", "note")] == [
        ["ours", "old"],
        ["84.00", "83.52"],
        ["83.00", "-"],
        ["-", "val is the test set (legacy run)"],
    ]


# Seeds --------------------------------------------------------------------------------------------------------------


def test_seeds_become_one_row_of_mean_and_sample_deviation(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    # 70, 72, 77: mean 73, squared distances 9 + 1 + 16 = 26, over n - 1 = 13, root 3.6056.
    for seed, accuracy in enumerate((0.70, 0.72, 0.77)):
        make_run(f"cnn/seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(accuracy, 0.5), test=(0.6, 0.6))
    make_run("kd", params=kd(cnn, 0.9, 4), run=finished, val=(0.75, 0.7), test=(0.7, 0.7))
    table = results_table(tmp_path, group_by_seed=True)
    names = ("path", "loss", "n", "val best", "val last", "test best", "epochs", "seconds")
    assert [column(table, header) for header in names] == [
        ["kd", "cnn"],
        ["kd", "ce"],
        ["1", "3"],
        ["75.00", "73.00 ± 3.61"],
        ["70.00", "50.00 ± 0.00"],
        ["70.00", "60.00 ± 0.00"],
        ["3", "3"],
        ["12", "12"],
    ]
    assert "seed" not in headers(table)


def test_seeds_are_rows_of_their_own_without_grouping(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed in (0, 1):
        make_run(f"seed_{seed}", params=cnn | {"seed": seed}, run=finished)
    table = results_table(tmp_path)
    assert (column(table, "seed"), headers(table)[2]) == (["0", "1"], "val best")


def test_the_csv_file_has_the_deviations_in_columns_of_their_own(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed, accuracy in enumerate((0.5, 0.75)):  # mean 0.625, deviation 0.25 / sqrt(2) = 0.17678
        make_run(f"seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(accuracy, accuracy))
    write_results(Runs.read(tmp_path), group_by_seed=True)
    header, row = csv_rows(tmp_path)
    assert header[:4] == ["path", "n", "val best", "val best std"]
    assert [*row[:3], row[3][:7]] == [".", "2", "0.625", "0.17677"]


def test_runs_that_differ_in_more_than_the_seed_are_not_grouped(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed in (0, 1):
        for alpha in (0.5, 0.9):
            params = kd(cnn, alpha, 4) | {"seed": seed}
            make_run(f"alpha_{alpha}_seed_{seed}", params=params, run=finished, val=(alpha, alpha))
    table = results_table(tmp_path, group_by_seed=True)
    assert [row[:4] for row in cells(table)] == [
        ["path", "alpha", "n", "val best"],
        ["alpha_0.9", "0.9", "2", "90.00 ± 0.00"],
        ["alpha_0.5", "0.5", "2", "50.00 ± 0.00"],
    ]


def test_runs_that_differ_in_description_and_seed_are_grouped(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed in (0, 1):
        make_run(
            f"seed_{seed}", params=cnn | {"seed": seed, "description": f"seed {seed}"}, run=finished, val=(0.5, 0.5)
        )
    assert column(results_table(tmp_path, group_by_seed=True), "n") == ["2"]


def test_unfinished_runs_are_not_averaged(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed in (0, 1):
        make_run(f"seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(0.5, 0.5))
    make_run("seed_2", params=cnn | {"seed": 2}, run={"state": "stopped"}, val=(0.1, 0.1))
    make_run("seed_3", params=cnn | {"seed": 3}, run={"state": "stopped"}, val=(0.2, 0.2))
    table = results_table(tmp_path, group_by_seed=True)
    assert [row[:4] for row in cells(table)] == [
        ["path", "state", "n", "val best"],
        [".", "finished", "2", "50.00 ± 0.00"],
        ["seed_3", "stopped", "1", "20.00"],
        ["seed_2", "stopped", "1", "10.00"],
    ]


def test_runs_of_unknown_parameters_are_not_averaged(tmp_path: Path, make_run: MakeRun) -> None:
    make_run("a", val=(0.5, 0.5))
    make_run("b", val=(0.4, 0.4))
    assert column(results_table(tmp_path, group_by_seed=True), "n") == ["1", "1"]


def test_a_seed_that_lacks_a_value_is_not_counted_in_its_mean(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed, test in enumerate([(0.5, 0.5), (0.7, 0.7), None]):
        make_run(f"seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(0.6, 0.6), test=test)
    # 50 and 70: mean 60, deviation 20 / sqrt(2).
    assert column(results_table(tmp_path, group_by_seed=True), "test best") == ["60.00 ± 14.14 (n=2)"]


def test_one_seed_run_twice_is_noted(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for name in ("first", "second"):
        make_run(name, params=cnn, run=finished, val=(0.6, 0.6))
    table = results_table(tmp_path, group_by_seed=True)
    assert (column(table, "path"), column(table, "note")) == (["first, second"], ["several runs of one seed"])


def test_grouped_rows_are_sorted_by_their_means(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed, (alone, distilled) in enumerate([(0.9, 0.7), (0.1, 0.6)]):
        make_run(f"alone_{seed}", params=cnn | {"seed": seed}, run=finished, val=(alone, alone))
        make_run(f"distilled_{seed}", params=kd(cnn, 0.9, 4) | {"seed": seed}, run=finished, val=(distilled, 0.5))
    assert column(results_table(tmp_path, group_by_seed=True), "path") == [
        "distilled_0, distilled_1",
        "alone_0, alone_1",
    ]


def test_parameters_that_follow_from_a_choice_are_in_the_csv_file_only(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    choices = {"small": {"student.num_channels": 4, "batch_size": 16}, "large": {"student.num_channels": 8}}
    write(tmp_path / "search.json", {"parameters": {"size": {"choices": choices}, "num_epochs": [1, 2]}})
    write(tmp_path / "params.json", cnn)
    for size, channels in (("small", 4), ("large", 8)):
        for epochs in (1, 2):
            own = {"student": {"name": "cnn", "num_channels": channels}, "num_epochs": epochs}
            params = cnn | own | ({"batch_size": 16} if size == "small" else {})
            make_run(f"size_{size}_num_epochs_{epochs}", params=params, run=finished, val=(0.5, 0.5))
    table = write_results(Runs.read(tmp_path))
    assert headers(table)[:4] == ["path", "size", "num_epochs", "val best"]
    assert csv_rows(tmp_path)[0][:5] == ["path", "size", "num_channels", "batch_size", "num_epochs"]
