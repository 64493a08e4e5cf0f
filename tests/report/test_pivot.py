"""The pivot table; every expected cell is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.pivot import pivot_table
from model.report.runs import Runs
from model.report.search_tables import tables_of_search

from .conftest import MakeRun, write
from .markdown_tables import cells

PAIRS: dict[str, dict[str, Any]] = {
    "small": {"student.name": "cnn", "batch_size": 16},
    "large": {"student.name": "resnet20", "batch_size": 64},
}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"loss": {"ce": {}}},
    "at": {"loss": {"ce": {}, "at": {"weight": 10}}, "teacher": "teacher"},
}


@pytest.fixture
def benchmark(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """Two pairs, two methods and two seeds, as a search over choices leaves them."""
    (tmp_path / "teacher").mkdir()
    parameters = {"pair": {"choices": PAIRS}, "method": {"choices": METHODS}, "seed": [0, 1]}
    write(tmp_path / "search.json", {"parameters": parameters})
    write(tmp_path / "params.json", cnn)
    accuracies = {("small", "plain"): (0.5, 0.6), ("small", "at"): (0.7, 0.7), ("large", "plain"): (0.8, 0.9)}
    for (pair, method), both in accuracies.items():
        for seed, accuracy in enumerate(both):
            student = cnn["student"] if pair == "small" else {"name": "resnet20"}
            terms = {"loss": METHODS[method]["loss"]} | ({"teacher": "../teacher"} if method == "at" else {})
            params = cnn | {"student": student, "batch_size": PAIRS[pair]["batch_size"], "seed": seed} | terms
            name = f"pair_{pair}_method_{method}_seed_{seed}"
            make_run(name, params=params, run=finished, val=(0.9, 0.9), test=(accuracy, 0.1))
    return tmp_path


def test_cells_are_mean_and_deviation_in_the_order_of_the_choices(benchmark: Path) -> None:
    assert cells(pivot_table(Runs.read(benchmark), "method", "pair")) == [
        ["method, pair", "small", "large"],
        ["plain", "55.00 ± 7.07 (n=2)", "85.00 ± 7.07 (n=2)"],
        ["at", "70.00 ± 0.00 (n=2)", "-"],
    ]


def test_tables_of_a_search_over_two_parameters_end_with_the_pivot_table(benchmark: Path) -> None:
    tables = tables_of_search(benchmark)
    assert tables.endswith(pivot_table(Runs.read(benchmark), "method", "pair"))
    assert "pair_small_method_plain " in tables
    assert "| pair " in tables.splitlines()[0]


def test_published_results_follow_in_brackets(benchmark: Path) -> None:
    rows = [
        {"method": "plain", "source": "first", "accuracies": {"small": 56.1, "large": 84}},
        {"method": "plain", "source": "second", "accuracies": {"small": 99.9}},
        {"method": "at", "source": "first", "accuracies": {"large": 90.25}},
        {"method": "kd", "source": "first", "accuracies": {"small": 60.0}},
    ]
    write(benchmark / "published.json", {"rows": rows})
    assert cells(pivot_table(Runs.read(benchmark), "method", "pair")) == [
        ["method, pair [published]", "small", "large"],
        ["plain", "55.00 ± 7.07 (n=2) [56.10]", "85.00 ± 7.07 (n=2) [84.00]"],
        ["at", "70.00 ± 0.00 (n=2)", "- [90.25]"],
    ]
    assert cells(pivot_table(Runs.read(benchmark), "pair", "method"))[1][1] == "55.00 ± 7.07 (n=2) [56.10]"


@pytest.mark.parametrize("content", [[], {"row": []}, {"rows": [{"method": "at", "accuracies": {}}]}, {"rows": [1]}])
def test_a_published_json_of_another_form_is_an_error(benchmark: Path, content: Any) -> None:
    write(benchmark / "published.json", content)
    with pytest.raises(UserError, match=r'published\.json: needs "rows", each with "method", "source" and'):
        pivot_table(Runs.read(benchmark), "method", "pair")


def test_numbers_are_in_order_and_unfinished_runs_do_not_count(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for alpha, temperature, run in ((0.5, 10, finished), (0.5, 2.0, finished), (0.9, 2, {"state": "stopped"})):
        params = cnn | {"teacher": "x", "loss": {"kd": {"alpha": alpha, "temperature": temperature}}}
        make_run(f"alpha_{alpha}_temperature_{temperature}", params=params, run=run, test=(alpha, alpha))
    table = pivot_table(Runs.read(tmp_path), "temperature", "loss.kd.alpha")
    assert cells(table) == [["temperature, loss.kd.alpha", "0.5"], ["2", "50.00 (n=1)"], ["10", "50.00 (n=1)"]]


def test_runs_of_one_cell_that_differ_in_a_third_parameter_are_an_error(benchmark: Path) -> None:
    with pytest.raises(UserError, match=r"have the same method plain, seed 0, but differ in pair, too"):
        pivot_table(Runs.read(benchmark), "method", "seed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metod", 'no run has a parameter named metod, did you mean "method"?'),
        ("weight", "weight is ambiguous, write one of: loss."),
    ],
)
def test_unknown_and_ambiguous_names_are_an_error(benchmark: Path, make_run: MakeRun, name: str, message: str) -> None:
    loss = {"kd": {"weight": 1}, "at": {"weight": 1}}
    make_run("more", params={"dataset": {"name": "cifar10"}, "student": {"name": "cnn"}, "loss": loss}, test=(0.1, 0.1))
    with pytest.raises(UserError) as caught:
        pivot_table(Runs.read(benchmark), name, "pair")
    assert message in str(caught.value)
