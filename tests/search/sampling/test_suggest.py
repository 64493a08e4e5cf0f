"""Sequential searches: the number of runs, which points, and that the folders alone determine how they continue."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.home import ROOT
from model.search.sampling.base import Sampler
from tests.search.fake_search import FakeSearch, tree, wait_until, write

RANGES = {"alpha": {"min": 0.0, "max": 1.0}, "temperature": {"min": 1.0, "max": 20.0}}
proposals = Sampler.proposals  # the original, where a test replaces it
GOAL = "1 - (alpha - 0.3) ** 2 - ((temperature - 5) / 20) ** 2"


def proposing(
    tmp_path: Path, run_cap: int = 5, *, method: str = "tpe", parameters: Any = RANGES, **student: Any
) -> FakeSearch:
    search = {"method": method, "run_cap": run_cap}
    return FakeSearch(tmp_path, parameters, search=search, student={"accuracy": GOAL} | student, num_epochs=1)


@pytest.fixture(scope="module")
def of_twelve(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The runs of an uninterrupted search of twelve, in their order."""
    fake = proposing(tmp_path_factory.mktemp("uninterrupted"), 12)
    assert fake.run(jobs=1) == 0
    return fake.begun()


def test_run_cap_runs_are_proposed_and_numbered(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 5)
    assert fake.run() == 0
    assert len(set(fake.begun())) == 5
    assert [fake.read(run, "trial.json") for run in fake.runs()] == [{"number": number} for number in range(5)]
    assert {fake.state(run) for run in fake.runs()} == {"finished"}


def test_the_name_of_a_run_has_its_values(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 1)
    fake.run()
    [name] = fake.runs()
    kd = fake.read(name, "params.json")["loss"]["kd"]
    assert name == f"alpha_{kd['alpha']}_temperature_{kd['temperature']}"


def test_a_second_call_proposes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = proposing(tmp_path, 3)
    fake.run()
    capsys.readouterr()
    assert fake.run() == 0
    assert len(fake.begun()) == 3
    assert "3 runs: 3 finished" in capsys.readouterr().err


def test_the_plan_has_the_number_of_proposals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposing(tmp_path, 3).run()
    assert "a search: 3 runs: 3 to be proposed by tpe" in capsys.readouterr().err


# Continuing ---------------------------------------------------------------------------------------------------------


def test_a_search_with_a_larger_run_cap_continues_as_if_it_had_been_larger_from_the_start(
    tmp_path: Path, of_twelve: list[str]
) -> None:
    fake = proposing(tmp_path, 11)
    fake.run(jobs=1)
    fake.change(run_cap=12)
    assert fake.run(jobs=1) == 0
    assert fake.begun() == of_twelve


@pytest.mark.parametrize("damage", ["lost", "truncated", "of another search", "a stale lock"])
def test_the_journal_is_never_needed(tmp_path: Path, of_twelve: list[str], damage: str) -> None:
    fake = proposing(tmp_path, 11)
    fake.run(jobs=1)
    journal = fake.folder / "optuna.journal"
    if damage == "lost":
        journal.unlink()
    elif damage == "truncated":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "of another search":
        journal.write_text('{"op_code": 0, "study_name": "x", "directions": [1, 1]}\n')
    else:
        (fake.folder / "optuna.journal.lock").symlink_to(journal)
    fake.change(run_cap=12)
    assert fake.run(jobs=1) == 0
    assert fake.begun() == of_twelve
    assert len(fake.study().trials) == 12


def test_after_kill_9_it_continues_as_if_uninterrupted(tmp_path: Path, of_twelve: list[str]) -> None:
    fake = proposing(tmp_path, 12, seconds=0.1)
    driver = fake.start(jobs=1)
    wait_until(lambda: len(fake.begun()) == 4)
    driver.kill()
    driver.communicate()
    assert fake.run(jobs=1) == 0
    assert list(dict.fromkeys(fake.begun())) == of_twelve
    assert all(len(fake.history(run)) == 1 for run in of_twelve)


def test_ctrl_c_lets_the_runs_save_and_the_next_call_resumes_them(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 4, seconds=0.2)
    driver = fake.start(jobs=2)
    wait_until(lambda: len(fake.begun()) == 2)
    driver.send_signal(signal.SIGINT)
    assert "0 of 4 runs are finished; run the same command to go on" in driver.communicate(timeout=10)[1]
    assert driver.returncode == 75
    assert fake.run(jobs=2) == 0
    assert len(fake.runs()) == 4


def test_a_grid_that_becomes_tpe_knows_its_runs(tmp_path: Path) -> None:
    values = {"alpha": [0.1, 0.5], "temperature": [2, 8]}
    fake = FakeSearch(tmp_path, values, student={"accuracy": GOAL}, num_epochs=1)
    fake.run()
    fake.change(method="tpe", run_cap=6, parameters=RANGES)
    assert fake.run() == 0
    assert len(fake.begun()) == len(set(fake.begun())) == 6
    trials = fake.study().trials[:4]
    assert [tuple(trial.params.values()) for trial in trials] == [(0.1, 2), (0.1, 8), (0.5, 2), (0.5, 8)]
    assert [trial.value for trial in trials] == pytest.approx([1 - 0.04 - 0.0225] * 4)


def test_values_can_be_added_to_a_list(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 2, parameters={"alpha": [0.1, 0.2], "student.name": ["cnn"]})
    fake.run()
    fake.change(parameters={"alpha": [0.05, 0.1, 0.2], "student.name": ["cnn", "resnet20"]}, run_cap=6)
    assert fake.run() == 0
    assert len(set(fake.begun())) == len(fake.begun()) == 6


def test_runs_outside_of_a_smaller_space_are_left_alone(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.9]}, num_epochs=1)
    fake.run()
    before = tree(fake.folder / "alpha_0.9")
    fake.change(method="random", run_cap=2, parameters={"alpha": {"min": 0.05, "max": 0.5}})
    assert fake.run() == 0
    assert tree(fake.folder / "alpha_0.9") == before
    assert len(fake.begun()) == 3


def test_a_base_that_changed_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = proposing(tmp_path, 2)
    fake.run()
    params = json.loads((fake.folder / "params.json").read_text())
    write(fake.folder / "params.json", params | {"num_epochs": 2})
    assert fake.run() == 2
    assert "num_epochs was 1, is 2; change them back" in capsys.readouterr().err


def test_restart_begins_the_same_points_anew(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 3)
    fake.run(jobs=1)
    assert fake.run(jobs=1, restart=True) == 0
    assert fake.begun()[3:] == fake.begun()[:3] == fake.runs()


# Points that have been run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_no_point_is_run_twice_and_a_small_space_ends(tmp_path: Path, method: str) -> None:
    values = {"alpha": [0.1, 0.2, 0.3], "pair": {"choices": {"a": {"seed": 1}, "b": {"seed": 2}}}}
    fake = proposing(tmp_path, 50, method=method, parameters=values)
    assert fake.run() == 0
    assert sorted(fake.begun()) == [f"alpha_{alpha}_pair_{pair}" for alpha in (0.1, 0.2, 0.3) for pair in "ab"]


def test_a_sampler_that_has_converged_continues_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = proposing(tmp_path, 4)
    monkeypatch.setattr(
        "model.search.sampling.base.Sampler.proposals",
        lambda self, known, number, attempts: (
            proposals(self, [], 0, range(1)) if known else proposals(self, [], number, attempts)
        ),
    )
    assert fake.run(jobs=1) == 0
    assert len(set(fake.begun())) == 4


def test_a_range_that_is_exhausted_ends_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = proposing(tmp_path, 10, method="random", parameters={"num_epochs": {"min": 1, "max": 3}})
    assert fake.run() == 0
    assert len(fake.begun()) == len(set(fake.begun())) <= 3
    assert "random proposes no new point any more, after 3 runs" in capsys.readouterr().err


def test_values_with_one_safe_form_get_folders_of_their_own(tmp_path: Path) -> None:
    fake = proposing(tmp_path, 3, method="random", parameters={"description": ["a/b", "a-b", "A-B"]})
    assert fake.run() == 0
    assert {fake.read(run, "params.json")["description"] for run in fake.runs()} == {"a/b", "a-b", "A-B"}
    assert fake.run() == 0
    assert len(fake.begun()) == 3


def test_points_of_choices_are_recognized_in_their_folders(tmp_path: Path) -> None:
    hinton = {"loss": {"kd": {}}, "loss.kd.alpha": {"min": 0.1, "max": 0.9}}
    scheduled = {"schedule": {"name": "step", "learning_rate": 3.0}}  # so that learning_rate stands for two values
    parameters = {
        "method": {"choices": {"alone": {"batch_size": 8}, "hinton": hinton, "scheduled": scheduled}},
        "learning_rate": {"min": 0.1, "max": 1.0},
    }
    fake = FakeSearch(
        tmp_path,
        parameters,
        search={"method": "random", "run_cap": 9},
        loss={"ce": {}},
        optimizer={"name": "sgd", "learning_rate": 0.5},
        num_epochs=1,
    )
    assert fake.run() == 0
    assert {run.split("_")[1] for run in fake.runs()} == {"alone", "hinton", "scheduled"}
    assert fake.run() == 0
    assert len(fake.begun()) == 9


def test_a_searched_teacher_is_recognized_in_the_folders_of_its_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "experiments" / name / "params.json", {"student": {"name": "cnn"}})
        (tmp_path / "experiments" / name / "best.pth.tar").touch()
    fake = proposing(tmp_path, 2, parameters={"teacher": ["../one", "../two"]})
    (tmp_path / "experiments" / "one" / "params.json").write_text(
        json.dumps({"dataset": {"name": "cifar10"}, "student": {"name": "cnn"}})
    )
    assert fake.run() == 0
    assert fake.run() == 0
    assert sorted(fake.begun()) == ["teacher_one", "teacher_two"]


# Failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["fail", "print NaN"])
def test_a_failed_run_does_not_count_and_another_is_proposed(tmp_path: Path, outcome: str) -> None:
    outcomes = {"outcome": {"choices": {"good": {"student.outcome": "finish"}, "bad": {"student.outcome": outcome}}}}
    fake = proposing(tmp_path, 6, method="random", parameters=RANGES | outcomes, outcome="finish")
    assert fake.run(jobs=1) == 1
    finished = [run for run in fake.runs() if "good" in run]
    assert len(finished) == 6
    assert len(fake.begun()) > 6
    num_begun = len(fake.begun())
    assert fake.run() == 0
    assert len(fake.begun()) == num_begun


def test_a_metric_that_no_run_has_is_reported_with_the_available_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = proposing(tmp_path, 9)
    fake.change(metric={"name": "val_acuracy"})
    assert fake.run() == 1
    assert len(fake.begun()) <= 4
    assert (
        "failed (no metric val_acuracy; available: epoch, val_accuracy, process, parameters," in capsys.readouterr().err
    )


def test_a_search_continues_without_a_journal_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = proposing(tmp_path, 2)
    (fake.folder / "optuna.journal").mkdir()
    assert fake.run() == 0
    assert capsys.readouterr().err.count("optuna.journal, for optuna-dashboard, is no longer written: ") == 1


# The dashboard -----------------------------------------------------------------------------------------------------


def test_the_journal_shows_optuna_every_run(tmp_path: Path) -> None:
    parameters = {"alpha": [0.25, 0.5], "student.name": ["cnn", "resnet20"], "num_epochs": {"value": 2}}
    fake = proposing(tmp_path, 4, method="random", parameters=parameters, accuracy="alpha * epoch / 2")
    fake.run()
    trials = fake.study().trials
    assert [trial.user_attrs["folder"] for trial in trials] == fake.runs()
    for trial in trials:
        alpha = trial.params["alpha"]
        assert trial.user_attrs["folder"] == f"alpha_{alpha}_student_{trial.params['student.name']}"
        assert (trial.state.name, trial.value) == ("COMPLETE", alpha)
        assert trial.intermediate_values == {1: alpha / 2, 2: alpha}
    assert fake.study().direction.name == "MAXIMIZE"


def test_a_grid_does_not_wait_for_optuna(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    program = (
        "import sys; from tests.search.fake_search import FakeSearch; from pathlib import Path;"
        "self = FakeSearch.__new__(FakeSearch); self.folder, self.events_file = map(Path, sys.argv[1:3]);"
        "assert self.run() == 0; assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(fake.folder), str(fake.events_file)], cwd=ROOT, check=True)
    assert not (fake.folder / "optuna.journal").exists()
