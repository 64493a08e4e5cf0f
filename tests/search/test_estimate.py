"""The estimated time of a search: the remaining runs, times the duration of one, divided by the number at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.commands.dry_run import estimate_run_seconds
from model.config.params import Params
from model.search.estimate import format_estimate
from model.search.plan import make_plan
from tests.conftest import MakeFolder
from tests.search.fake_search import FakeSearch, tree, write
from tests.search.test_driver import with_teacher


def estimate(fake: FakeSearch, seconds: float | None = 60, max_jobs: int = 2, **options: Any) -> str:
    def measure(params: Params, path: Path) -> float | None:
        assert path == fake.folder / "params.json"
        return seconds

    return format_estimate(make_plan(fake.folder), max_jobs, measure, **options)


def test_without_a_finished_run_the_first_is_measured(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3]})
    assert estimate(fake) == "time: about 90 s, 3 x 60 s, 2 at a time (measured on a few steps of 3)"


def test_measured_runs_are_spread_over_all_that_are_left(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.9], "temperature": [1.0, 2.0, 3.0]})

    def measure(params: Params, path: Path) -> float:
        return 100 * float(params.loss["kd"]["alpha"])

    text = format_estimate(make_plan(fake.folder), 1, measure)
    assert text == "time: about 5 min, 6 x 50 s, 1 at a time (measured on a few steps of 4)"


def test_start_up_and_what_is_trained_first_are_counted(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path)

    def measure(params: Params, path: Path) -> float:
        return 20 if path.parent.name == "teacher" else 60

    text = format_estimate(make_plan(fake.folder), 2, measure, startup=3)
    assert text.startswith("time: about 2 min, 23 s for what is trained first, then 4 x 63 s, 2 at a time")


def test_the_duration_of_finished_runs_is_used(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4]})
    fake.run()  # two seconds an epoch, by their run.json
    fake.change(parameters={"alpha": [n / 10 for n in range(10)]})
    assert estimate(fake, max_jobs=2) == "time: about 12 s, 6 x 4 s, 2 at a time (mean of 4 finished)"


def test_a_run_that_has_begun_counts_by_what_is_left(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    write(fake.folder / "alpha_0.1" / "run.json", {"state": "stopped", "progress": 0.75})
    assert estimate(fake, max_jobs=1).startswith("time: about 75 s, 1.25 x 60 s, 1 at a time")


@pytest.mark.parametrize(
    ("search", "num_final", "expected"),
    [
        ({"method": "random", "run_cap": 7}, 0, "about 7 min, 7 x 60 s"),
        ({"seeds": [0, 1, 2], "top": 2}, 0, "about 7 min, 7 x 60 s"),  # 3 + 2 * 2
        ({}, 5, "about 8 min, 8 x 60 s"),
        ({"early_terminate": {"type": "median"}}, 0, "at most 3 min, 3 x 60 s"),
    ],
)
def test_runs_that_are_not_planned_yet_are_counted(tmp_path: Path, search: Any, num_final: int, expected: str) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3], "temperature": [1.0]}, search=search)
    if "method" in search:
        fake.change(parameters={"alpha": {"min": 0.1, "max": 0.9}})
    assert estimate(fake, max_jobs=1, num_final=num_final).startswith(f"time: {expected}, 1 at a time")


def test_a_run_is_timed_by_a_few_of_its_steps(tmp_path: Path, make_folder: MakeFolder, runtime: Runtime) -> None:
    teacher = make_folder(tmp_path / "teacher")
    folder = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    before = tree(tmp_path)
    seconds = estimate_run_seconds(Experiment(folder.path, runtime), threads=1)
    assert seconds is not None
    assert 0 < seconds < 60
    assert tree(tmp_path) == before


def test_a_data_set_that_is_not_downloaded_cannot_be_timed(tmp_path: Path) -> None:
    assert (
        estimate(FakeSearch(tmp_path, {"alpha": [0.1]}), None)
        == "time: unknown, as the data set has not been downloaded yet"
    )


def test_nothing_takes_no_time(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    fake.run()
    assert estimate(fake) == "time: none, nothing is left to do"
