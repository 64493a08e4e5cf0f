"""Every registered figure, drawn of runs made by hand: what is in it is read back from matplotlib's objects."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas import Series
from PIL import Image
from scipy import stats

from model.registry import FIGURES
from model.report import figures
from model.report.figures.costs import pareto_front
from model.report.figures.importances import param_importances
from model.report.figures.parallel_coordinates import axis
from model.report.figures.style import caption, draw, save
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


EVALUATION = {
    "accuracy": 0.7,
    "calibration_error": 0.05,
    "classes": [{"class": "cat", "accuracy": 0.8}, {"class": "dog", "accuracy": 0.6}],
    "confusion": [[8, 2], [4, 6]],
    "reliability": {"counts": [0, 5, 15], "confidence": [0.0, 0.5, 0.9], "accuracy": [0.0, 0.4, 0.8]},
}


@pytest.fixture
def evaluated(grid: Runs) -> Runs:
    """The same after evaluate.py was run on the worst of the runs on val and on its baseline."""
    for folder, accuracy in ((grid.parent_dir / "alpha_0.9_temperature_1_seed_0", 0.8), (grid.baseline_dir, 0.5)):
        assert folder is not None
        path = folder / ("." if folder != grid.baseline_dir else "seed_1") / "evaluation" / "test_best.json"
        path.parent.mkdir(parents=True)
        first = {"class": "cat", "accuracy": accuracy}
        write(path, EVALUATION | {"classes": [first, {"class": "dog", "accuracy": 0.6}]})
    return grid


@pytest.fixture
def born_again(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> Runs:
    """Three generations, the ensembles of which have been evaluated."""
    for number, accuracy in enumerate((0.5, 0.52, 0.51)):
        make_run(f"born/gen_{number}", params=cnn, val=(accuracy, 0.5), test=(accuracy, 0.5))
    (tmp_path / "born" / "evaluation").mkdir()
    write(tmp_path / "born" / "evaluation" / "test_best_probabilities.json", {"ensemble_accuracy": [0.5, 0.55, 0.56]})
    return Runs.read(tmp_path / "born")


@pytest.fixture
def multi_exit(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> Runs:
    for name, accuracy in (("with", 0.7), ("without", 0.6)):
        path = make_run(f"exits/{name}", params=cnn | {"loss": {name: {}}}, val=(accuracy, 0.5))
        metrics = {"exit_1_accuracy": 0.4, "exit_2_accuracy": 0.5, "ensemble_accuracy": 0.72, "num_samples": 100}
        write(path / "metrics_test_best_weights.json", metrics | {"accuracy": accuracy})
    return Runs.read(tmp_path / "exits")


FIXTURES = {
    **dict.fromkeys(("classes", "confusion", "reliability"), "evaluated"),
    "generations": "born_again",
    "exits": "multi_exit",
}


def drawn(name: str, runs: Runs, **options: Any) -> Figure:
    figure = draw(name, runs, **options)
    assert figure is not None
    return figure


def texts(labels: Sequence[Text]) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("name", FIGURES.names())
def test_figure_is_written_twice_the_same_with_axes_that_are_named(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    runs = request.getfixturevalue(FIXTURES.get(name, "grid"))
    assert drawn(name, runs).axes[0].get_xlabel()
    for copy in ("one", "two"):
        save(drawn(name, runs), tmp_path / copy)
    for ending in ("png", "svg"):
        one, two = ((tmp_path / f"{copy}.{ending}").read_bytes() for copy in ("one", "two"))
        assert one == two
    with Image.open(tmp_path / "one.png") as image:
        assert image.size[0] <= 1100


@pytest.mark.parametrize("name", FIGURES.names())
def test_figure_has_a_caption(name: str) -> None:
    assert caption(name).endswith(".")
    assert len(caption(name)) > 30


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
    # 73 and 75 minus 66 and 68: twice 7, with the spread of rounding to 0.01 points; six comparisons, the first.
    assert list(point.get_xdata()) == pytest.approx([7.0])  # type: ignore[arg-type]
    half = stats.t.isf(0.05 / 6 / 2, 1) * 0.01 * math.sqrt(2 / 12 / 2)
    assert list(interval.get_xdata()) == pytest.approx([7.0 - half, 7.0 + half])  # type: ignore[arg-type]


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


def test_costs_have_a_panel_of_latency_where_all_runs_have_one(grid: Runs) -> None:
    assert len(drawn("costs", grid).axes) == 2
    timed = replace(grid, table=grid.table.assign(latency_ms=1.5))
    assert drawn("costs", timed).axes[2].get_xlabel() == "ms an image"


def test_confusion_matrix_has_true_classes_down_and_shares_of_them_as_colours(evaluated: Runs) -> None:
    axes = drawn("confusion", evaluated).axes[0]
    assert texts(axes.get_yticklabels()) == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "8"),
        ((1, 0), "2"),
        ((0, 1), "4"),
        ((1, 1), "6"),
    }
    assert axes.images[0].get_array().tolist() == [[80.0, 20.0], [40.0, 60.0]]  # type: ignore[union-attr]


def test_reliability_leaves_empty_bins_out(evaluated: Runs) -> None:
    _, line = drawn("reliability", evaluated).axes[0].lines
    assert list(line.get_xdata()) == pytest.approx([50.0, 90.0])  # type: ignore[arg-type]
    assert list(line.get_ydata()) == pytest.approx([40.0, 80.0])  # type: ignore[arg-type]
    assert line.get_label() == "alpha_0.9_temperature_1_seed_0: calibration error 5.0 %"


def test_classes_are_those_of_the_run_and_of_the_baseline(evaluated: Runs) -> None:
    axes = drawn("classes", evaluated).axes[0]
    assert texts(axes.get_yticklabels()) == ["cat", "dog"]
    assert {line.get_label(): list(line.get_xdata()) for line in axes.lines} == {  # type: ignore[arg-type]
        "alpha_0.9_temperature_1_seed_0": [80.0, 60.0],
        "baseline": [50.0, 60.0],
    }


def test_classes_of_the_teacher_are_those_of_its_folder(evaluated: Runs, make_run: MakeRun, tmp_path: Path) -> None:
    teacher = make_run("teacher", params={})
    (teacher / "evaluation").mkdir()
    write(teacher / "evaluation" / "test_best.json", EVALUATION)
    with_teacher = replace(evaluated, table=evaluated.table.assign(teacher=str(teacher)))
    assert "teacher" in [line.get_label() for line in drawn("classes", with_teacher).axes[0].lines]


def test_generations_have_a_line_for_their_ensembles(born_again: Runs) -> None:
    single, ensembles = drawn("generations", born_again).axes[0].lines
    assert list(single.get_ydata()) == pytest.approx([50.0, 52.0, 51.0])  # type: ignore[arg-type]
    assert list(ensembles.get_ydata()) == pytest.approx([50.0, 55.0, 56.0])  # type: ignore[arg-type]


def test_exits_end_with_the_last_one_and_the_ensemble(multi_exit: Runs) -> None:
    axes = drawn("exits", multi_exit).axes[0]
    assert texts(axes.get_xticklabels()) == ["exit 1", "exit 2", "last exit", "ensemble"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([40.0, 50.0, 70.0, 72.0])  # type: ignore[arg-type]


def test_parallel_coordinates_have_a_line_a_run_and_an_axis_a_parameter(grid: Runs) -> None:
    axes = drawn("parallel_coordinates", grid).axes[0]
    assert texts(axes.get_xticklabels()) == ["alpha", "temperature"]
    lines = [tuple(line.get_ydata()) for line in axes.lines[2:]]  # type: ignore[arg-type]  # after the axes
    assert sorted(lines) == sorted([(alpha, t) for alpha in (0.0, 1.0) for t in (0.0, 0.5, 1.0)] * 2)


def test_a_parameter_over_orders_of_magnitude_has_a_logarithmic_axis() -> None:
    positions, ticks = axis(Series([1e-4, 1e-3, 1e-2, 1e-1, 2e-4, 2e-3, 2e-2], index=list("abcdefg")))
    assert [positions[run] for run in "abcd"] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert ticks == [(0.0, "0.0001"), (1.0, "0.1")]


def test_importance_is_that_of_the_parameter_that_matters(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    for alpha in (0.1, 0.3, 0.5, 0.7):
        for temperature in (1, 2, 4, 8):
            loss = {"kd": {"alpha": alpha, "temperature": temperature}}
            params = cnn | {"teacher": "base", "loss": loss}
            accuracy = 0.5 + alpha / 4 + (temperature == 4) / 1000
            make_run(f"{alpha}_{temperature}", params=params, val=(accuracy, 0.5), test=(0.5, 0.5))
    shares = param_importances(Runs.read(tmp_path).table, ["loss.kd.alpha", "loss.kd.temperature"])
    assert list(shares) == ["loss.kd.alpha", "loss.kd.temperature"]
    assert shares["loss.kd.alpha"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["$x^$", "caf\udce9", "\u732b", "a\nb", "x" * 200])
def test_names_may_be_any_text(name: str, tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for number, run in enumerate((name, "other")):
        params = cnn | {"num_epochs": 3 + number}
        make_run(
            run,
            params=params,
            run={"state": "finished", "parameters": 9 + number, "macs": 1},
            val=(0.5, 0.5),
            test=(0.5, 0.5),
        )
    for kind in ("accuracies", "costs"):
        save(drawn(kind, Runs.read(tmp_path)), tmp_path / kind)
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
