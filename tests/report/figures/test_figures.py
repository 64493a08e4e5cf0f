"""Every registered figure, drawn of runs made by hand: what is in it is read back from matplotlib's objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from model.registry import FIGURES
from model.report import figures
from model.report.figures.costs import pareto_front
from model.report.figures.style import draw, save
from model.report.runs import Runs
from tests.report.conftest import MakeRun, write

assert figures


@pytest.fixture
def grid(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> Runs:
    """Two alphas and three temperatures with two seeds each; test and val disagree on which is the best.

    The baseline has 66 and 68 % on test, and the student of a temperature is as large as it is hot.
    """
    for seed, accuracy in ((0, 0.66), (1, 0.68)):
        make_run(f"alone/seed_{seed}", params=cnn | {"seed": seed}, val=(0.6, 0.5), test=(accuracy, 0.5))
    for alpha in (0.1, 0.9):
        for temperature in (1.0, 2.0, 4.0):
            for seed in (0, 1):
                kd = {"kd": {"alpha": alpha, "temperature": temperature}}
                path = make_run(
                    f"grid/alpha_{alpha:g}_temperature_{temperature:g}_seed_{seed}",
                    params=cnn | {"teacher": "base", "loss": kd, "seed": seed},
                    run={"state": "finished", "parameters": 1000 * temperature, "macs": 1e6 * temperature},
                    val=(0.7 - alpha / 10 + seed / 100, 0.5),
                    test=(0.6 + alpha / 10 + temperature / 100 + seed / 50, 0.5),
                )
                rows = [{"epoch": 1, "val_accuracy": 0.3 + seed / 10}, {"epoch": 2, "val_accuracy": 0.5 + seed / 10}]
                write(path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return Runs.read(tmp_path / "grid").compared_with(tmp_path / "alone")


def drawn(name: str, runs: Runs, **options: Any) -> Figure:
    figure = draw(name, runs, **options)
    assert figure is not None
    return figure


@pytest.mark.parametrize("name", FIGURES.names())
def test_figure_is_written_twice_the_same_with_axes_that_are_named(name: str, grid: Runs, tmp_path: Path) -> None:
    figure = drawn(name, grid)
    assert figure.axes[0].get_xlabel()
    for copy in ("one", "two"):
        save(drawn(name, grid), tmp_path / copy)
    for ending in ("png", "svg"):
        one, two = ((tmp_path / f"{copy}.{ending}").read_bytes() for copy in ("one", "two"))
        assert one == two
    with Image.open(tmp_path / "one.png") as image:
        assert image.size[0] <= 1100


@pytest.mark.parametrize("name", FIGURES.names())
def test_runs_without_results_have_no_figure(name: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("new", params=cnn)
    assert draw(name, Runs.read(tmp_path)) is None


def test_heat_map_has_the_mean_over_the_seeds_in_each_cell(grid: Runs) -> None:
    axes = drawn("heat_map", grid).axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "63.0"),  # alpha 0.1, temperature 1: 60 + 1 + 1 + a seed's 0 or 2
        ((1, 0), "71.0"),
        ((0, 1), "64.0"),
        ((1, 1), "72.0"),
        ((0, 2), "66.0"),
        ((1, 2), "74.0"),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.9"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("alpha", "temperature")


def test_heat_map_frames_the_best_on_val_and_not_on_test(grid: Runs) -> None:
    (frame,) = drawn("heat_map", grid).axes[0].patches
    assert frame.get_xy() == (-0.5, -0.5)  # type: ignore[attr-defined]


def test_heat_map_of_named_parameters_is_turned(grid: Runs) -> None:
    axes = drawn("heat_map", grid, down="loss.kd.alpha", across="loss.kd.temperature").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("temperature", "alpha")


def test_heat_map_of_one_parameter_is_none(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for epochs in (3, 9):
        make_run(f"{epochs}", params=cnn | {"num_epochs": epochs}, val=(0.5, 0.5), test=(0.5, 0.5))
    assert draw("heat_map", Runs.read(tmp_path)) is None


def test_accuracies_have_a_dot_a_run_and_a_bar_a_group_in_the_order_of_val(grid: Runs) -> None:
    axes = drawn("accuracies", grid).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "alpha_0.1_temperature_1"
    assert labels[3] == "alpha_0.9_temperature_1"
    dots, bar = axes.lines[:2]
    assert list(dots.get_xdata()) == pytest.approx([62.0, 64.0])  # type: ignore[arg-type]
    assert list(bar.get_xdata()) == pytest.approx([63.0])  # type: ignore[arg-type]


def test_learning_curves_are_the_mean_over_the_seeds(grid: Runs) -> None:
    axes = drawn("learning_curves", grid).axes[0]
    assert len(axes.lines) == 6
    assert list(axes.lines[0].get_ydata()) == pytest.approx([35.0, 55.0])  # type: ignore[arg-type]
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((30.0, 60.0))


def test_differences_are_to_the_baseline_with_their_intervals(grid: Runs) -> None:
    axes = drawn("differences", grid).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    row = labels.index("alpha_0.9_temperature_4")
    interval, point = axes.lines[2 * row : 2 * row + 2]
    # 73 and 75 minus 66 and 68: twice 7, without any spread.
    assert list(point.get_xdata()) == pytest.approx([7.0])  # type: ignore[arg-type]
    assert list(interval.get_xdata()) == pytest.approx([7.0, 7.0])  # type: ignore[arg-type]


def test_without_a_baseline_there_are_no_differences(grid: Runs) -> None:
    assert draw("differences", Runs.read(grid.parent_dir)) is None


def test_costs_have_a_point_a_group_and_the_front_on_val(grid: Runs) -> None:
    parameters, macs = drawn("costs", grid).axes
    points, front = parameters.lines
    assert sorted(set(points.get_xdata())) == [1000.0, 2000.0, 4000.0]  # type: ignore[arg-type, type-var]
    assert list(front.get_xdata()) == [1000.0]  # type: ignore[arg-type]  # val does not grow with the temperature
    assert macs.get_xlabel() == "multiply-accumulates an image"


def test_front_has_those_that_no_cheaper_one_beats() -> None:
    cost = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0, "e": 4.0}
    accuracy = {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.65, "e": 0.8}
    assert pareto_front(cost, accuracy) == ["a", "b", "e"]
