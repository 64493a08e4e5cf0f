"""The columns that compare each row with a baseline; differences and intervals are worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.runs import Runs
from model.report.tables import write_results
from tests.report.markdown_tables import column, headers

from .conftest import MakeRun


@pytest.fixture
def compared(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """Three seeds alone (80, 81, 82 %), distilled (each 2 points better, +- 0.1), deeper (noise), and one seed."""
    arms: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
        "alone": ({}, (0.80, 0.81, 0.82)),
        "distilled": ({"loss": {"kd": {}}, "teacher": "base"}, (0.819, 0.83, 0.841)),
        "longer": ({"num_epochs": 9}, (0.83, 0.79, 0.82)),
        "once": ({"num_epochs": 27}, (0.9,)),
    }
    for name, (changes, accuracies) in arms.items():
        for seed, accuracy in enumerate(accuracies):
            params = cnn | changes | {"seed": seed}
            make_run(f"{name}/seed_{seed}", params=params, run=finished, val=(accuracy, 0.5), test=(accuracy, 0.5))
    return tmp_path


def rows(table: str, header: str) -> dict[str, str]:
    cells = zip(column(table, "path"), column(table, header), strict=True)
    return {path.partition("/")[0]: cell for path, cell in cells}


def test_rows_have_difference_interval_and_verdict(compared: Path) -> None:
    table = write_results(Runs.read(compared).compared_with(compared / "alone"))
    assert rows(table, "verdict") == {
        "alone": "baseline",
        "distilled": "better",
        "longer": "not shown",
        "once": "one seed",
    }
    # Differences 1.9, 2.0, 2.1: deviation 0.1, and 0.1 / sqrt(3) times t = 6.205, the quantile for 5 % / 2 comparisons.
    assert rows(table, "difference [95 %]")["distilled"] == "+2.00 [+1.64, +2.36]"
    assert rows(table, "difference [95 %]")["once"] == "-"
    assert rows(table, "seeds needed")["distilled"] == "2"


def test_a_run_of_several_seeds_stands_for_all_of_them(compared: Path) -> None:
    one, all_of_them = (
        write_results(Runs.read(compared).compared_with(compared / folder)) for folder in ("alone/seed_1", "alone")
    )
    assert one == all_of_them


def test_without_a_baseline_there_are_no_such_columns(compared: Path) -> None:
    assert "verdict" not in headers(write_results(Runs.read(compared), group_by_seed=True))


def test_baseline_may_be_elsewhere(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "alone"
    (compared / "alone").rename(elsewhere)
    table = write_results(Runs.read(compared).compared_with(elsewhere))
    assert rows(table, "verdict")["distilled"] == "better"


@pytest.mark.parametrize(
    ("baseline", "message"),
    [("nowhere", "no such folder"), (".", "kinds of runs"), ("new", "no run in it has been evaluated on test")],
)
def test_what_is_no_baseline_is_refused_and_nothing_written(
    baseline: str, message: str, compared: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    make_run("new/run", params=cnn)
    with pytest.raises(UserError, match=message):
        write_results(Runs.read(compared).compared_with(compared / baseline))
    assert not (compared / "results.md").exists()
