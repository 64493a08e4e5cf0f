"""How long a search takes: runs that are left, times what one took, over how many go at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.commands.dry_run import estimate_run_seconds
from model.config.params import Params
from model.search.estimate import told_time
from model.search.plan import make_plan
from tests.conftest import MakeFolder
from tests.search.fake_search import FakeSearch, tree, write


def told(fake: FakeSearch, seconds: float | None = 60, at_once: int = 2, **options: Any) -> str:
    def measure(params: Params, path: Path) -> float | None:
        assert path == fake.folder / "params.json"
        return seconds

    return told_time(make_plan(fake.folder), at_once, measure, **options)


def test_without_a_finished_run_the_first_is_measured(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3]})
    assert told(fake) == "time: about 90 s, 3 to do of 60 s each (the first, by a few of its steps)"


def test_finished_runs_tell_how_long_one_takes(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4]})
    fake.run()  # two seconds an epoch, they say
    fake.change(parameters={"alpha": [n / 10 for n in range(10)]})
    assert told(fake, at_once=2) == "time: about 12 s, 6 to do of 4 s each (mean of 4 finished)"


def test_a_run_that_has_begun_counts_by_what_is_left(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    write(fake.folder / "alpha_0.1" / "run.json", {"state": "stopped", "progress": 0.75})
    assert told(fake, at_once=1).startswith("time: about 75 s, 1.25 to do of 60 s each")


@pytest.mark.parametrize(
    ("search", "num_final", "expected"),
    [
        ({"method": "random", "run_cap": 7}, 0, "about 7 min, 7 to do"),
        ({"seeds": [0, 1, 2], "top": 2}, 0, "about 7 min, 7 to do"),  # 3 + 2 * 2
        ({}, 5, "about 8 min, 8 to do"),
        ({"early_terminate": {"type": "median"}}, 0, "at most 3 min, 3 to do"),
    ],
)
def test_runs_that_are_yet_unknown_are_counted(tmp_path: Path, search: Any, num_final: int, expected: str) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3], "temperature": [1.0]}, search=search)
    if "method" in search:
        fake.change(parameters={"alpha": {"min": 0.1, "max": 0.9}})
    assert told(fake, at_once=1, num_final=num_final).startswith(f"time: {expected} of 60 s each")


def test_a_run_is_timed_by_a_few_of_its_steps(tmp_path: Path, make_folder: MakeFolder, runtime: Runtime) -> None:
    teacher = make_folder(tmp_path / "teacher")
    folder = make_folder(tmp_path / "student", teacher=str(teacher.path), loss={"kd": {}})
    before = tree(tmp_path)
    seconds = estimate_run_seconds(Experiment(folder.path, runtime), threads=1)
    assert seconds is not None
    assert 0 < seconds < 60
    assert tree(tmp_path) == before


def test_data_that_is_not_here_cannot_be_timed(tmp_path: Path) -> None:
    assert told(FakeSearch(tmp_path, {"alpha": [0.1]}), None) == "time: not known, as the data set is not here yet"


def test_nothing_takes_no_time(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    fake.run()
    assert told(fake) == "time: none, nothing is left to do"
