"""The tables that a search prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.report.search_tables import tables_of_search
from model.report.tables import results_table

from .conftest import MakeRun, write
from .markdown_tables import cells, column, headers

METHOD: dict[str, Any] = {
    "choices": {
        "alone": {"loss": {"ce": {}}},
        "hinton": {"loss": {"kd": {}}, "loss.kd.alpha": {"values": [0.1, 0.9]}},
    }
}


@pytest.fixture
def conditional(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """One run of the choice without parameters of its own, two of the other."""
    write(tmp_path / "params.json", cnn)
    write(tmp_path / "search.json", {"parameters": {"method": METHOD, "batch_size": [64]}})
    for name, loss, accuracy in (
        ("method_alone", {"ce": {}}, 0.5),
        ("method_hinton_alpha_0.1", {"kd": {"alpha": 0.1}}, 0.6),
        ("method_hinton_alpha_0.9", {"kd": {"alpha": 0.9}}, 0.7),
    ):
        make_run(name, params=cnn | {"loss": loss}, run=finished, val=(accuracy, accuracy))
    return tmp_path


def test_a_choice_and_its_own_parameters_have_columns(conditional: Path) -> None:
    table = results_table(conditional)
    assert [row[:2] for row in cells(table)] == [
        ["path", "method"],
        ["method_hinton_alpha_0.9", "hinton"],
        ["method_hinton_alpha_0.1", "hinton"],
        ["method_alone", "alone"],
    ]
    assert column(table, "alpha") == ["0.9", "0.1", "-"]


def test_no_pivot_table_of_choices_with_parameters_of_their_own(conditional: Path) -> None:
    assert tables_of_search(conditional) == results_table(conditional)


def test_no_pivot_table_of_ranges(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    write(tmp_path / "params.json", cnn)
    write(tmp_path / "search.json", {"parameters": {"learning_rate": {"min": 0.1, "max": 1}, "batch_size": [64]}})
    make_run("learning_rate_0.5", params=cnn, run=finished, val=(0.5, 0.5))
    assert tables_of_search(tmp_path) == results_table(tmp_path)


def test_seeds_of_a_search_are_one_row(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    write(tmp_path / "params.json", cnn)
    write(tmp_path / "search.json", {"parameters": {"batch_size": [64]}, "seeds": [0, 1]})
    for seed, name in enumerate(("batch_size_64", "batch_size_64_seed_1")):
        make_run(name, params=cnn | {"batch_size": 64, "seed": seed}, run=finished, val=(0.5, 0.5))
    table = tables_of_search(tmp_path)
    assert column(table, "path") == ["batch_size_64"]
    assert "seed" not in headers(table)


def test_only_some_runs_can_be_shown(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for name in ("a", "b", "c"):
        make_run(name, params=cnn, run={"state": "finished"}, val=(0.5, 0.5))
    assert column(results_table(tmp_path, only=["a", "c"]), "path") == ["a", "c"]


def test_a_report_needs_neither_the_sampler_nor_the_pruner_of_a_search(conditional: Path) -> None:
    search = {"method": "of a plug-in", "early_terminate": {"type": "of a plug-in"}}
    write(conditional / "search.json", search | {"parameters": {"method": METHOD, "batch_size": [64]}})
    assert column(tables_of_search(conditional), "method") == ["hinton", "hinton", "alone"]


def test_a_broken_search_json_costs_the_names_of_the_choices_alone(conditional: Path) -> None:
    (conditional / "search.json").write_text('{"parameters": 7}')
    table = results_table(conditional)
    assert "method" not in headers(table)
    assert column(table, "alpha") == ["0.9", "0.1", "-"]
