"""Samplers: proposals are points of the space, deterministic given the known trials, and improve with time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from model.search.results import TrialResult
from model.search.space.points import Point
from model.search.space.schema import Space
from model.search.space.search_file import load_space
from tests.search.fake_search import BASE, write

METHODS = [
    "random",
    "tpe",
    "gp",
    "nsga2",
    pytest.param("cmaes", marks=pytest.mark.skipif(find_spec("cmaes") is None, reason="the package is not installed")),
]
RANGES = {"alpha": {"min": 0.0, "max": 1.0}, "temperature": {"min": 1.0, "max": 20.0}}
MIXED = {
    "batch_size": [32, 8, 16],
    "num_epochs": {"min": 1, "max": 5},
    "student.name": ["cnn", "resnet20"],
    "optimizer": {
        "choices": {
            "sgd": {
                "optimizer": {"name": "sgd"},
                "optimizer.learning_rate": {"min": 0.001, "max": 1, "distribution": "log_uniform_values"},
                "optimizer.momentum": {"min": 0.1, "max": 0.9, "q": 0.2},
            },
            "adam": {"optimizer": {"name": "adam"}},
        }
    },
}


def space(tmp_path: Path, method: str, parameters: Any, **keys: Any) -> Space:
    write(tmp_path / "search.json", {"method": method, "run_cap": 100, "parameters": parameters} | keys)
    return load_space(tmp_path, BASE)


def quadratic(point: Point) -> tuple[float]:
    """Best, 1, at alpha 0.3 and temperature 5."""
    return (1 - (point.values["alpha"] - 0.3) ** 2 - ((point.values["temperature"] - 5) / 20) ** 2,)


def search(
    searched_space: Space, num_runs: int, objective: Callable[[Point], tuple[float, ...]]
) -> list[tuple[Point, TrialResult]]:
    sampler = searched_space.build_sampler()
    known: list[tuple[Point, TrialResult]] = []
    for number in range(num_runs):
        point = next(sampler.proposals(known, number))
        known.append((point, TrialResult("complete", objective(point))))
    return known


@pytest.mark.parametrize("method", METHODS)
def test_every_proposal_is_a_point_of_the_space(tmp_path: Path, method: str) -> None:
    for point, _ in search(space(tmp_path, method, MIXED), 16, lambda point: (point.values["batch_size"] / 32,)):
        values = dict(point.values)
        assert values.pop("batch_size") in (8, 16, 32)
        num_epochs = values.pop("num_epochs")
        assert type(num_epochs) is int
        assert 1 <= num_epochs <= 5
        assert values.pop("student.name") in ("cnn", "resnet20")
        if point.picks["optimizer"] == "sgd":
            assert 0.001 <= values.pop("optimizer.learning_rate") <= 1
            assert values.pop("optimizer.momentum") in (0.1, 0.3, 0.5, 0.7, 0.9)
        assert values == {"optimizer": {"name": point.picks["optimizer"]}}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_runs_lead_to_the_same_proposal(tmp_path: Path, method: str) -> None:
    ranges = space(tmp_path, method, RANGES)
    known = search(ranges, 14, quadratic)
    first, again = (next(ranges.build_sampler().proposals(known, 14)) for _ in range(2))
    assert first == again
    assert len({point.name for point in ranges.build_sampler().proposals([], 14, range(5))}) == 5


@pytest.mark.parametrize("method", METHODS)
def test_another_search_seed_gives_other_proposals(tmp_path: Path, method: str) -> None:
    spaces = [space(tmp_path, method, RANGES, search_seed=seed) for seed in range(5)]
    names = {next(ranges.build_sampler().proposals([], 0)).name for ranges in spaces}
    assert len(names) == 5


@pytest.mark.parametrize("method", METHODS[1:])
def test_later_proposals_are_better_than_the_first(tmp_path: Path, method: str) -> None:
    values = [result.values[0] for _, result in search(space(tmp_path, method, RANGES), 30, quadratic)]
    assert statistics.mean(values[-10:]) > statistics.mean(values[:10]) + 0.05


def test_tpe_comes_much_nearer_to_the_best_point_than_random(tmp_path: Path) -> None:
    def mean_distance(method: str) -> float:
        spaces = [space(tmp_path, method, RANGES, search_seed=seed) for seed in range(10)]
        searches = [search(ranges, 40, quadratic) for ranges in spaces]
        return statistics.mean(1 - max(result.values[0] for _, result in known) for known in searches)

    assert mean_distance("tpe") < mean_distance("random") / 3


def test_a_metric_with_the_goal_minimize_is_minimized(tmp_path: Path) -> None:
    loss = space(tmp_path, "tpe", RANGES, metric={"name": "val_loss"})
    known = search(loss, 30, lambda point: (1 - quadratic(point)[0],))
    values = [result.values[0] for _, result in known]
    assert statistics.mean(values[-10:]) < statistics.mean(values[:10])


@pytest.mark.parametrize("method", METHODS[:4])
def test_several_metrics_are_possible(tmp_path: Path, method: str) -> None:
    two = space(tmp_path, method, RANGES, metric=[{"name": "val_accuracy"}, {"name": "macs"}])
    known = search(two, 13, lambda point: (point.values["alpha"], point.values["alpha"] * 1e6))
    assert len({point.name for point, _ in known}) > 10


def test_pruned_and_pending_trials_influence_a_proposal_and_failed_ones_do_not(tmp_path: Path) -> None:
    ranges = space(tmp_path, "tpe", RANGES)
    known = search(ranges, 12, quadratic)

    def next_with(result: TrialResult) -> Point:
        return next(ranges.build_sampler().proposals([*known[:-1], (known[-1][0], result)], 12))

    unknown = next(ranges.build_sampler().proposals(known[:-1], 12))
    assert next_with(TrialResult("failed")) == unknown
    assert next_with(TrialResult("pruned", (), {1: 0.0, 2: 0.1})) != unknown
    assert next_with(TrialResult("pending")) != unknown


def test_proposals_have_few_digits(tmp_path: Path) -> None:
    parameters = {
        "alpha": {"min": 0, "max": 1},
        "temperature": {"min": 100, "max": 200.5},
        "optimizer.learning_rate": {"min": 1e-5, "max": 0.1, "distribution": "log_uniform_values"},
    }
    write(tmp_path / "search.json", {"method": "random", "run_cap": 1, "parameters": parameters})
    for number in range(50):
        ranges = load_space(tmp_path, BASE | {"optimizer": {"name": "sgd"}})
        values = next(ranges.build_sampler().proposals([], number)).values
        assert len(str(values["alpha"])) <= len("0.123")
        assert len(str(values["temperature"])) <= len("123.4")
        assert float(f"{values['optimizer.learning_rate']:.3e}") == values["optimizer.learning_rate"]
