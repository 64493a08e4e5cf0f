"""Points of a space: all combinations, conditional parameters included, and a few that cover all options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.search.space.points import axes, combinations, covering_points, grid_points, num_points
from model.search.space.schema import Space
from model.search.space.search_file import load_space
from tests.search.fake_search import BASE, FakeSearch, write

METHOD = {
    "choices": {
        "alone": {"loss": {"ce": {}}},
        "hinton": {
            "loss.kd.alpha": {"values": [0.1, 0.9]},
            "loss": {"kd": {}},
            "loss.kd.temperature": {"values": [2, 4]},
        },
    }
}


def space(tmp_path: Path, parameters: Any, **keys: Any) -> Space:
    write(tmp_path / "search.json", {"parameters": parameters} | keys)
    return load_space(tmp_path, BASE)


def test_a_grid_expands_conditional_parameters_only_where_their_choice_is_picked(tmp_path: Path) -> None:
    by_name = {point.name: point.values for point in grid_points(space(tmp_path, {"method": METHOD, "seed": [0, 1]}))}
    assert by_name == {
        "method_alone_seed_0": {"loss": {"ce": {}}, "seed": 0},
        "method_alone_seed_1": {"loss": {"ce": {}}, "seed": 1},
        **{
            f"method_hinton_alpha_{alpha}_temperature_{temperature}_seed_{seed}": {
                "loss": {"kd": {}},
                "loss.kd.alpha": alpha,
                "loss.kd.temperature": temperature,
                "seed": seed,
            }
            for alpha in (0.1, 0.9)
            for temperature in (2, 4)
            for seed in (0, 1)
        },
    }


def test_the_last_parameter_varies_fastest_within_a_choice_too(tmp_path: Path) -> None:
    assert [point.name for point in grid_points(space(tmp_path, {"seed": [0, 1], "method": METHOD}))][:6] == [
        "seed_0_method_alone",
        "seed_0_method_hinton_alpha_0.1_temperature_2",
        "seed_0_method_hinton_alpha_0.1_temperature_4",
        "seed_0_method_hinton_alpha_0.9_temperature_2",
        "seed_0_method_hinton_alpha_0.9_temperature_4",
        "seed_1_method_alone",
    ]


def test_a_conditional_value_is_set_inside_the_value_of_its_choice(tmp_path: Path) -> None:
    [_, point, *_] = grid_points(space(tmp_path, {"method": METHOD}))
    assert list(point.values) == ["loss", "loss.kd.alpha", "loss.kd.temperature"]


def test_run_cap_cuts_a_grid(tmp_path: Path) -> None:
    points = grid_points(space(tmp_path, {"alpha": [0.1, 0.2], "temperature": [2, 4]}, run_cap=3))
    assert [point.name for point in points] == [
        "alpha_0.1_temperature_2",
        "alpha_0.1_temperature_4",
        "alpha_0.2_temperature_2",
    ]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"alpha": [0.1, 0.2, 0.3], "temperature": [2, 4]}, 6),
        ({"method": METHOD}, 1 + 2 * 2),
        ({"method": METHOD, "seed": [0, 1, 2]}, 15),
    ],
)
def test_combinations_are_counted_without_making_them(tmp_path: Path, parameters: Any, expected: int) -> None:
    searched = space(tmp_path, parameters)
    assert num_points(searched) == expected == len(list(combinations(searched)))


def test_a_range_has_no_number_of_points(tmp_path: Path) -> None:
    assert num_points(space(tmp_path, {"alpha": {"min": 0.0, "max": 1.0}}, method="random", run_cap=1)) is None


def test_covering_points_have_every_value_and_both_ends_of_every_range(tmp_path: Path) -> None:
    inner = {
        "loss": {"kd": {}},
        "loss.kd.alpha": {"min": 0.1, "max": 0.9},
        "loss.kd.temperature": {"values": [1, 2, 3]},
    }
    parameters = {
        "seed": [0, 1, 2, 3],
        "method": {"choices": {"alone": {"loss": {"ce": {}}}, "hinton": {"loss": {"kd": {}}} | inner}},
        "num_epochs": {"min": 1, "max": 9},
    }
    searched = space(tmp_path, parameters, method="random", run_cap=1)
    picked = {(axis, value) for point in covering_points(searched) for axis, value in point.picks.items()}
    assert picked == {
        *(("seed", seed) for seed in range(4)),
        ("method", "alone"),
        ("method", "hinton"),
        ("method.hinton.loss.kd.alpha", 0.1),
        ("method.hinton.loss.kd.alpha", 0.9),
        *(("method.hinton.loss.kd.temperature", temperature) for temperature in (1, 2, 3)),
        ("num_epochs", 1),
        ("num_epochs", 9),
    }
    assert {axis for axis, _ in picked} == {axis.name for axis in axes(searched)}


def test_a_grid_of_conditional_choices_is_trained(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"method": METHOD}, num_epochs=1, loss={"ce": {}})
    assert fake.run() == 0
    assert fake.read("method_alone", "params.json")["loss"] == {"ce": {}}
    run = "method_hinton_alpha_0.9_temperature_2"
    assert fake.read(run, "params.json")["loss"] == {"kd": {"alpha": 0.9, "temperature": 2}}
