"""Which rows and columns are shown: --filter, --sort_by, --top, --columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.collect import natural_order
from model.report.runs import Runs
from model.report.tables import Selection, write_results
from tests.report.markdown_tables import cells, column, headers, notes

from .conftest import MakeRun


@pytest.fixture
def runs(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """Three distilled runs of temperatures 2, 4 and 10, and one from labels alone, which has no temperature."""
    for temperature, val, test in ((2, 0.6, 0.9), (4.0, 0.8, 0.5), (10, 0.7, 0.7)):
        params = cnn | {"teacher": "base", "loss": {"kd": {"alpha": 0.9, "temperature": temperature}}}
        make_run(
            f"kd_{temperature:g}",
            params=params,
            run=finished | {"seconds": temperature},
            val=(val, val),
            test=(test, test),
        )
    make_run("alone", params=cnn, run=finished | {"seconds": 7}, val=(0.5, 0.5), test=(0.8, 0.8))
    return tmp_path


def shown(runs: Path, **selection: Any) -> list[str]:
    return column(write_results(Runs.read(runs), selection=Selection(**selection)), "path")


@pytest.mark.parametrize(
    ("expression", "paths"),
    [
        ("temperature >= 4", ["kd_4", "kd_10"]),
        ("temperature >= 4 and loss == 'kd'", ["kd_4", "kd_10"]),
        ("2 <= temperature < 10", ["kd_4", "kd_2"]),
        ("loss.kd.temperature == 4", ["kd_4"]),
        ("temperature in (2, 10) or loss == 'ce'", ["kd_10", "kd_2", "alone"]),
        ("not temperature > 2", ["kd_2", "alone"]),
        ("loss not in ('kd',)", ["alone"]),
        ("val_best_accuracy > 0.65", ["kd_4", "kd_10"]),
        ("loss != 3", ["kd_4", "kd_10", "kd_2", "alone"]),
        ("loss < 3 or temperature == 2", ["kd_2"]),
        ("4 == temperature", ["kd_4"]),
        ("temperature > -1", ["kd_4", "kd_10", "kd_2"]),
    ],
)
def test_filter_keeps_the_runs_for_which_it_is_true(expression: str, paths: list[str], runs: Path) -> None:
    assert list(Runs.read(runs).where(expression).table.index) == sorted(paths, key=natural_order)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("temperature >", "'temperature >' cannot be read; it may hold comparisons"),
        ("temperatur > 2", 'no run has a column named temperatur, did you mean "temperature"'),
        ("temperature", "'temperature' is no comparison"),
        ("__import__('os').system('true') == 0", "is neither a column, a number nor a text"),
        ("loss.kd.temperature.__class__ == 3", "no run has a column named loss.kd.temperature.__class__"),
        ("[x for x in (1,)] == 1", "is neither a column, a number nor a text"),
        ("(lambda: 1)() == 1", "is neither a column, a number nor a text"),
        ("temperature > 100", "no run under .* matches 'temperature > 100'"),
        ("temperature + 1 > 2", "'temperature \\+ 1' is neither a column, a number nor a text"),
        ("(" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_comparison_of_columns_is_refused(expression: str, message: str, runs: Path) -> None:
    with pytest.raises(UserError, match=message):
        Runs.read(runs).where(expression)
    assert not (runs / "results.md").exists()


@pytest.mark.parametrize(
    ("sort_by", "paths"),
    [
        ("val_best_accuracy", ["kd_4", "kd_10", "kd_2", "alone"]),
        ("-val_best_accuracy", ["alone", "kd_2", "kd_10", "kd_4"]),
        ("seconds", ["kd_2", "kd_4", "alone", "kd_10"]),
        ("-seconds", ["kd_10", "alone", "kd_4", "kd_2"]),
        ("temperature", ["kd_2", "kd_4", "kd_10", "alone"]),
        ("-temperature", ["kd_10", "kd_4", "kd_2", "alone"]),
        ("loss", ["alone", "kd_2", "kd_4", "kd_10"]),
        ("-loss", ["kd_2", "kd_4", "kd_10", "alone"]),
    ],
)
def test_rows_can_be_sorted_by_any_column(sort_by: str, paths: list[str], runs: Path) -> None:
    assert shown(runs, sort_by=sort_by) == paths


def test_order_of_a_test_result_is_no_ranking_and_says_so(runs: Path) -> None:
    table = write_results(Runs.read(runs), selection=Selection(sort_by="test_best_accuracy"))
    assert column(table, "path") == ["kd_2", "alone", "kd_10", "kd_4"]
    assert "Rows are in the order of a result on test: the first is not the best, but the luckiest." in notes(table)


def test_top_keeps_the_first_rows_and_says_so(runs: Path) -> None:
    table = write_results(Runs.read(runs), selection=Selection(top=2))
    assert column(table, "path") == ["kd_4", "kd_10"]
    assert "2 of 4 rows are shown." in notes(table)


def test_columns_are_the_named_ones_also_those_that_are_else_not_printed(runs: Path) -> None:
    table = write_results(
        Runs.read(runs), selection=Selection(columns=("test best", "learning_rate", "parameters", "val_best_epoch"))
    )
    assert headers(table) == ["path", "test best", "learning_rate", "parameters", "val_best_epoch"]
    assert cells(table)[1] == ["kd_4", "50.00", "0.001", "-", "3.0000"]


def test_column_that_does_not_exist_is_refused(runs: Path) -> None:
    with pytest.raises(UserError, match="no run has a column named test_bst, did you mean"):
        write_results(Runs.read(runs), selection=Selection(columns=("test_bst",)))


def test_best_accuracies_are_bold_in_latex(runs: Path) -> None:
    table = write_results(Runs.read(runs), selection=Selection(columns=("val best", "test best")), format_name="latex")
    assert "kd\\_4 & \\textbf{80.00} & 50.00" in table
    assert "kd\\_2 & 60.00 & \\textbf{90.00}" in table
