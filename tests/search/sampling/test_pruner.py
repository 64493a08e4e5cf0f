"""Pruners: which runs they stop, never the best one, and how the driver does it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.config.folder import Folder
from model.registry import PRUNERS
from model.report.tables import results_table
from model.search.sampling.asha import ASHA
from model.search.sampling.hyperband import Hyperband, bracket_sizes
from model.search.sampling.median import MedianPruner
from model.search.sampling.pruner import Pruner
from model.search.space.metric import Metric
from tests.search.fake_search import FakeSearch, is_alive, write


def make_run(tmp_path: Path, name: str, values: Sequence[float], *, state: str = "running") -> Folder:
    folder = Folder(tmp_path / name)
    write(folder.run, {"state": state})
    rows = [{"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(values, 1)]
    folder.history.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def with_runs(pruner: Pruner, folders: Sequence[Folder]) -> Pruner:
    for folder in folders:
        pruner.begin(folder, num_epochs=100)
    return pruner


def median(folders: Sequence[Folder], *, min_iter: int = 2, metric: Metric | None = None) -> Pruner:
    return with_runs(MedianPruner(metric or Metric(), 0, min_iter=min_iter), folders)


def asha(folders: Sequence[Folder], *, min_iter: int = 2, eta: int = 3) -> Pruner:
    return with_runs(ASHA(Metric(), 0, min_iter=min_iter, eta=eta), folders)


def is_stopped(pruner: Pruner, tmp_path: Path, values: Sequence[float], num_epochs: int = 100) -> bool:
    """Whether a run with these values, one per epoch, is stopped."""
    folder = make_run(tmp_path, "it", [])
    pruner.begin(folder, num_epochs=num_epochs)
    for epoch in range(1, len(values) + 1):
        make_run(tmp_path, "it", values[:epoch])
        pruner.update(folder)
        if pruner.should_prune(folder):
            return True
    return False


# Median -------------------------------------------------------------------------------------------------------------


def finished(tmp_path: Path, values: Sequence[float]) -> list[Folder]:
    """Runs of 4 epochs, each with its value from the second on."""
    return [make_run(tmp_path, f"run_{n}", [0, *[value] * 3], state="finished") for n, value in enumerate(values)]


@pytest.mark.parametrize(("value", "expected"), [(0.29, True), (0.3, False), (0.31, False)])
def test_median_stops_runs_below_the_median_of_the_finished(tmp_path: Path, value: float, expected: bool) -> None:
    pruner = median(finished(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert is_stopped(pruner, tmp_path, [0, value]) is expected


def test_median_stops_no_run_before_min_iter(tmp_path: Path) -> None:
    runs = finished(tmp_path, [0.5] * 5)
    assert not is_stopped(median(runs, min_iter=4), tmp_path, [0, 0, 0])
    assert is_stopped(median(runs, min_iter=4), tmp_path, [0, 0, 0, 0])


def test_median_needs_five_finished_runs(tmp_path: Path) -> None:
    others = [*finished(tmp_path, [0.5] * 4), make_run(tmp_path, "running", [0.5] * 4)]
    assert not is_stopped(median(others), tmp_path, [0, 0, 0])


def test_the_best_epoch_so_far_counts(tmp_path: Path) -> None:
    pruner = median(finished(tmp_path, [0.5] * 5))
    assert not is_stopped(pruner, tmp_path, [0.6, 0.1, 0.1])


def test_smaller_is_better_with_the_goal_minimize(tmp_path: Path) -> None:
    loss = Metric(name="val_accuracy", goal="minimize")
    for value, expected in ((0.6, True), (0.4, False)):
        others = [make_run(tmp_path, f"run_{n}", [1, 0.5, 0.5], state="finished") for n in range(5)]
        assert is_stopped(median(others, metric=loss), tmp_path, [1, value]) is expected


def test_an_epoch_without_a_number_is_the_worst(tmp_path: Path) -> None:
    pruner = median(finished(tmp_path, [0.5] * 5))
    assert is_stopped(pruner, tmp_path, [float("nan"), float("nan"), 0.4])


# Asha ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [(0.55, False), (0.45, False), (0.35, True), (0.0, True)])
def test_asha_stops_all_but_the_best_third_at_a_rung(tmp_path: Path, value: float, expected: bool) -> None:
    # Six runs have reached epoch 2, so two continue: this one and 0.5, or 0.5 and 0.4.
    others = [make_run(tmp_path, f"run_{n}", [0, value]) for n, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5])]
    assert is_stopped(asha(others), tmp_path, [0, value]) is expected


def test_asha_stops_runs_at_rungs_only(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0, 0, 0.9, 0.9, 0.9, 0.9, 0.9]) for n in range(5)]
    assert not is_stopped(asha(others), tmp_path, [0, 0, 0, 0, 0])
    assert is_stopped(asha(others), tmp_path, [0, 0, 0, 0, 0, 0])  # 2 * 3


def test_the_first_run_at_a_rung_continues(tmp_path: Path) -> None:
    assert not is_stopped(asha([make_run(tmp_path, "slow", [0.9])]), tmp_path, [0, 0])


def test_stopped_runs_still_compete(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0.5, 0.5], state="pruned") for n in range(3)]
    assert is_stopped(asha(others), tmp_path, [0.4, 0.4])


def test_no_run_is_stopped_at_its_end(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0.5] * 6) for n in range(3)]
    assert not is_stopped(asha(others), tmp_path, [0.6] * 5 + [0.6], num_epochs=6)
    assert not is_stopped(asha(others, min_iter=6), tmp_path, [0.4] * 6, num_epochs=6)


def test_a_rung_is_checked_once(tmp_path: Path) -> None:
    pruner = asha([])
    assert not is_stopped(pruner, tmp_path, [0.1, 0.1])
    for n in range(5):
        pruner.begin(make_run(tmp_path, f"run_{n}", [0.9, 0.9]), num_epochs=100)
    make_run(tmp_path, "it", [0.1, 0.1, 0.1])
    pruner.update(Folder(tmp_path / "it"))
    assert not pruner.should_prune(Folder(tmp_path / "it"))


def test_the_last_epoch_of_a_resumed_run_is_checked_again(tmp_path: Path) -> None:
    pruner = asha([make_run(tmp_path, f"run_{n}", [0.9, 0.9]) for n in range(5)])
    stopped = make_run(tmp_path, "it", [0.1, 0.1], state="stopped")
    pruner.begin(stopped, num_epochs=100)
    assert pruner.should_prune(stopped)


def test_the_values_of_a_run_to_be_restarted_do_not_count(tmp_path: Path) -> None:
    pruner = asha([make_run(tmp_path, f"run_{n}", [0.9, 0.9]) for n in range(5)])
    folder = make_run(tmp_path, "it", [0.1, 0.1])
    folder.run.unlink()  # as when a search restarts it
    pruner.begin(folder, num_epochs=100)
    assert not pruner.should_prune(folder)


# Hyperband ----------------------------------------------------------------------------------------------------------


def test_the_sizes_of_brackets_are_those_of_the_paper() -> None:
    # ceil(5 * 3^s / (s + 1)) for s = 4, ..., 0: the paper's example of R = 81.
    assert bracket_sizes(81, 3) == [81, 34, 15, 8, 5]


def test_a_run_competes_within_its_bracket_and_brackets_begin_at_higher_rungs(tmp_path: Path) -> None:
    stopped_at: dict[int, int] = {}
    for number in range(150):
        pruner = Hyperband(Metric(), 0, min_iter=1, eta=3)
        for n in range(400):  # enough of the best for every bracket to have some
            pruner.begin(Folder(tmp_path / f"good_{n}"), num_epochs=9)
        for curve in pruner.curves.values():
            curve.best = [0.9] * 9
        folder = Folder(tmp_path / f"bad_{number}")
        pruner.begin(folder, num_epochs=9)
        for epoch in range(1, 10):
            pruner.curves[folder].best = [0.1] * epoch
            if pruner.should_prune(folder):
                break
        stopped_at[epoch] = stopped_at.get(epoch, 0) + 1
    # 9, 5 and 3 of 17 runs begin at rungs of 1, 3 and 9 epochs; the last is the runs' end.
    assert set(stopped_at) == {1, 3, 9}
    assert stopped_at[1] > stopped_at[3] > stopped_at[9]


# All pruners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNERS.names())
def test_bad_runs_are_stopped_and_never_the_best_of_an_epoch(tmp_path: Path, name: str) -> None:
    draw = random.Random(0)
    pruner = PRUNERS.build(name, Metric(), 0, min_iter=2)
    curves: dict[str, list[float]] = {}
    num_stopped = 0
    for number in range(60):
        level, run = draw.random(), f"run_{number}"
        values = [level + 0.2 * draw.random() for _ in range(20)]
        folder = Folder(tmp_path / run)
        pruner.begin(folder, num_epochs=20)
        for epoch in range(1, 21):
            make_run(tmp_path, run, values[:epoch], state="finished" if epoch == 20 else "running")
            pruner.update(folder)
            curves[run] = values[:epoch]
            if pruner.should_prune(folder):
                num_stopped += 1
                assert max(values[:epoch]) < max(max(other[:epoch]) for other in curves.values() if len(other) >= epoch)
                break
    assert num_stopped > 15


# The driver ---------------------------------------------------------------------------------------------------------

ALPHAS = [0.9, 0.1, 0.2, 0.3]


@pytest.fixture
def pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    """The first run is the best; all runs have the same value in every epoch."""
    monkeypatch.setattr("model.search.run_queue.READ_PROGRESS_SECONDS", 0.0)
    search = {"early_terminate": {"type": "asha", "min_iter": 1, "eta": 2}}
    return FakeSearch(tmp_path, {"alpha": ALPHAS}, search=search, student={"seconds": 0.15}, num_epochs=8)


def test_bad_runs_are_stopped_and_logged(pruning: FakeSearch, capsys: pytest.CaptureFixture[str]) -> None:
    assert pruning.run(jobs=1) == 0
    assert [pruning.state(f"alpha_{alpha}") for alpha in ALPHAS] == ["finished", "pruned", "pruned", "pruned"]
    assert all(len(pruning.history(f"alpha_{alpha}")) < 5 for alpha in ALPHAS[1:])
    shown = re.sub(r"\d+ s\b", "N s", capsys.readouterr().err)
    assert "alpha_0.1: pruned after N s, val_accuracy 10.00 %; 1 of 4 finished, 1 pruned, best 90.00 %" in shown
    assert shown.endswith("1 of 4 runs are finished, 3 pruned\n")


def test_a_second_call_leaves_pruned_runs_alone(pruning: FakeSearch, capsys: pytest.CaptureFixture[str]) -> None:
    pruning.run(jobs=1)
    capsys.readouterr()
    assert pruning.run(jobs=1) == 0
    assert len(pruning.begun()) == 4
    assert "4 runs: 1 finished, 3 pruned" in capsys.readouterr().err


def test_the_table_has_the_state_of_pruned_runs(pruning: FakeSearch) -> None:
    pruning.run(jobs=1)
    table = results_table(pruning.folder)
    assert [line.count("pruned") for line in table.splitlines()] == [0, 0, 0, 1, 1, 1]


def test_restart_begins_pruned_runs_anew(pruning: FakeSearch) -> None:
    pruning.run(jobs=1)
    pruning.change(early_terminate=None)
    assert pruning.run(restart=True) == 0
    assert {pruning.state(f"alpha_{alpha}") for alpha in ALPHAS} == {"finished"}


def test_a_run_that_was_stopped_but_not_marked_is_stopped_again(pruning: FakeSearch) -> None:
    pruning.run(jobs=1)
    write(pruning.folder / "alpha_0.1" / "run.json", {"state": "stopped"})  # as if the search was killed right then
    (pruning.folder / "alpha_0.1" / "metrics.jsonl").write_text('{"epoch": 1, "val_accuracy": 0.1}\n')
    assert pruning.run(jobs=1) == 0
    assert pruning.state("alpha_0.1") == "pruned"
    assert len(pruning.history("alpha_0.1")) <= 2


def test_a_run_that_does_not_stop_is_killed_and_counts_as_pruned(
    tmp_path: Path, pruning: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.search.run_queue.GRACE_SECONDS", 0.1)
    deaf = {"student.deaf": True, "student.seconds": 0.5}
    well = {"student.deaf": False, "student.seconds": 0.02}
    params = json.loads((pruning.folder / "params.json").read_text())
    write(pruning.folder / "params.json", params | {"student": params["student"] | {"deaf": False}})
    pruning.change(parameters={"run": {"choices": {"good": well | {"alpha": 0.9}, "bad": deaf | {"alpha": 0.1}}}})
    assert pruning.run(jobs=1) == 0
    assert pruning.state("run_bad") == "pruned"
    assert not any(is_alive(event["process"]) for event in pruning.events("begin"))


def test_pruned_runs_are_in_the_journal(pruning: FakeSearch) -> None:
    pruning.change(method="tpe", run_cap=4)
    assert pruning.run(jobs=1) == 0
    states = {trial.params["alpha"]: trial.state.name for trial in pruning.study().trials}
    assert len(states) == 4
    assert states[0.9] == "COMPLETE"
    assert "PRUNED" in states.values()
