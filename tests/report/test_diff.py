"""What differs between two folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.diff import diff
from model.report.tables import render
from tests.report.markdown_tables import cells, notes

from .conftest import MakeRun


@pytest.fixture
def two(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> tuple[Path, Path]:
    """Two folders of three seeds: alone, and distilled, 2 points better."""
    kd = {"loss": {"kd": {"alpha": 0.9}}, "teacher": "base"}
    for name, changes, points in (("alone", {}, (0.0, 0.01, 0.02)), ("distilled", kd, (0.02, 0.03, 0.041))):
        for seed, accuracy in enumerate(points):
            run = finished | {"fingerprint": {"train": {"content": name}}}
            make_run(
                f"{name}/seed_{seed}",
                params=cnn | changes | {"seed": seed},
                run=run,
                val=(0.5, 0.5),
                test=(0.8 + accuracy, 0.5),
            )
    return tmp_path / "alone", tmp_path / "distilled"


def test_parameters_and_results_that_differ_have_a_row(two: tuple[Path, Path]) -> None:
    table = render(diff(*two), "markdown")
    assert [row[0] for row in cells(table)] == ["", "teacher", "loss", "loss.kd.alpha", "test best accuracy", "data"]
    assert cells(table)[0][1:] == [str(path) for path in two]
    assert cells(table)[2:5] == [
        ["loss", "ce", "kd"],
        ["loss.kd.alpha", "-", "0.9"],
        ["test best accuracy", "81.00 ± 1.00 (n=3)", "83.03 ± 1.05 (n=3)"],
    ]


def test_difference_has_its_interval_and_a_verdict(two: tuple[Path, Path]) -> None:
    # Differences 2, 2, 2.1: mean 2.033, deviation 0.0577; 0.0577 / sqrt(3) * 4.303 = 0.143.
    assert notes(render(diff(*two), "markdown")) == [
        "On test, +2.03 percentage points [+1.89, +2.18]: the second is better."
    ]


def test_a_folder_does_not_differ_from_itself(two: tuple[Path, Path]) -> None:
    table = diff(two[0], two[0])
    assert (table.num_rows, list(table.notes)) == (0, ["The two folders are alike in all parameters and results."])


def test_several_kinds_of_runs_are_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="holds 2 kinds of runs"):
        diff(two[0].parent, two[0])
