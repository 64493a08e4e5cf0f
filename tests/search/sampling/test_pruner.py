"""Which runs are stopped early: as the rules say, never the best one, and by the driver."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.config.folder import Folder
from model.report.tables import results_table
from model.search.sampling.pruner import Pruner, shares_of_brackets
from model.search.space.schema import EarlyTerminate, Metric
from tests.search.fake_search import FakeSearch, is_alive, write

MEDIAN = EarlyTerminate(type="median", min_iter=2)
ASHA = EarlyTerminate(type="asha", min_iter=2, eta=3)


def make_run(tmp_path: Path, name: str, values: Sequence[float], *, state: str = "running") -> Folder:
    folder = Folder(tmp_path / name)
    write(folder.run, {"state": state})
    rows = [{"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(values, 1)]
    folder.history.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def pruner_of(rule: EarlyTerminate, others: Sequence[Folder], metric: Metric | None = None) -> Pruner:
    pruner = Pruner(rule, metric or Metric())
    for folder in others:
        pruner.begin(folder, num_epochs=100)
    return pruner


def is_stopped(pruner: Pruner, tmp_path: Path, values: Sequence[float], num_epochs: int = 100) -> bool:
    """Whether a run is stopped when it has come so far."""
    folder = make_run(tmp_path, "it", [])
    pruner.begin(folder, num_epochs=num_epochs)
    for epoch in range(1, len(values) + 1):
        make_run(tmp_path, "it", values[:epoch])
        pruner.look(folder)
        if pruner.should_stop(folder, num_epochs=num_epochs):
            return True
    return False


# Median -------------------------------------------------------------------------------------------------------------


def finished(tmp_path: Path, finals: Sequence[float]) -> list[Folder]:
    """Runs of 4 epochs, on the same value from the second on."""
    return [make_run(tmp_path, f"run_{n}", [0, *[value] * 3], state="finished") for n, value in enumerate(finals)]


@pytest.mark.parametrize(("value", "expected"), [(0.29, True), (0.3, False), (0.31, False)])
def test_median_stops_what_is_below_the_middle_of_the_finished(tmp_path: Path, value: float, expected: bool) -> None:
    pruner = pruner_of(MEDIAN, finished(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert is_stopped(pruner, tmp_path, [0, value]) is expected


def test_median_lets_runs_go_on_until_min_iter(tmp_path: Path) -> None:
    runs = finished(tmp_path, [0.5] * 5)
    assert not is_stopped(pruner_of(EarlyTerminate(type="median", min_iter=4), runs), tmp_path, [0, 0, 0])
    assert is_stopped(pruner_of(EarlyTerminate(type="median", min_iter=4), runs), tmp_path, [0, 0, 0, 0])


def test_median_needs_five_finished_runs(tmp_path: Path) -> None:
    others = [*finished(tmp_path, [0.5] * 4), make_run(tmp_path, "running", [0.5] * 4)]
    assert not is_stopped(pruner_of(MEDIAN, others), tmp_path, [0, 0, 0])


def test_the_best_epoch_so_far_counts(tmp_path: Path) -> None:
    pruner = pruner_of(MEDIAN, finished(tmp_path, [0.5] * 5))
    assert not is_stopped(pruner, tmp_path, [0.6, 0.1, 0.1])


def test_a_loss_is_the_better_the_smaller_it_is(tmp_path: Path) -> None:
    loss = Metric(name="val_accuracy", goal="minimize")
    for value, expected in ((0.6, True), (0.4, False)):
        others = [make_run(tmp_path, f"run_{n}", [1, 0.5, 0.5], state="finished") for n in range(5)]
        assert is_stopped(pruner_of(MEDIAN, others, loss), tmp_path, [1, value]) is expected


def test_an_epoch_without_a_number_is_the_worst(tmp_path: Path) -> None:
    pruner = pruner_of(MEDIAN, finished(tmp_path, [0.5] * 5))
    assert is_stopped(pruner, tmp_path, [float("nan"), float("nan"), 0.4])


# Asha ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [(0.55, False), (0.45, False), (0.35, True), (0.0, True)])
def test_asha_lets_the_best_third_go_on_from_a_rung(tmp_path: Path, value: float, expected: bool) -> None:
    # With it six have reached epoch 2, so two go on: it and 0.5, or 0.5 and 0.4.
    others = [make_run(tmp_path, f"run_{n}", [0, value]) for n, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5])]
    assert is_stopped(pruner_of(ASHA, others), tmp_path, [0, value]) is expected


def test_asha_decides_at_the_rungs_alone(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0, 0, 0.9, 0.9, 0.9, 0.9, 0.9]) for n in range(5)]
    assert not is_stopped(pruner_of(ASHA, others), tmp_path, [0, 0, 0, 0, 0])
    assert is_stopped(pruner_of(ASHA, others), tmp_path, [0, 0, 0, 0, 0, 0])  # 2 * 3


def test_the_first_to_reach_a_rung_goes_on(tmp_path: Path) -> None:
    assert not is_stopped(pruner_of(ASHA, [make_run(tmp_path, "slow", [0.9])]), tmp_path, [0, 0])


def test_stopped_runs_still_compete(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0.5, 0.5], state="pruned") for n in range(3)]
    assert is_stopped(pruner_of(ASHA, others), tmp_path, [0.4, 0.4])


def test_no_run_is_stopped_at_its_end(tmp_path: Path) -> None:
    others = [make_run(tmp_path, f"run_{n}", [0.5] * 6) for n in range(3)]
    assert not is_stopped(pruner_of(ASHA, others), tmp_path, [0.6] * 5 + [0.6], num_epochs=6)
    assert not is_stopped(pruner_of(EarlyTerminate(type="asha", min_iter=6), others), tmp_path, [0.4] * 6, num_epochs=6)


def test_a_rung_is_decided_once(tmp_path: Path) -> None:
    pruner = pruner_of(ASHA, [])
    assert not is_stopped(pruner, tmp_path, [0.1, 0.1])
    for n in range(5):
        pruner.begin(make_run(tmp_path, f"run_{n}", [0.9, 0.9]), num_epochs=100)
    make_run(tmp_path, "it", [0.1, 0.1, 0.1])
    pruner.look(Folder(tmp_path / "it"))
    assert not pruner.should_stop(Folder(tmp_path / "it"), num_epochs=100)


def test_the_last_epoch_of_a_run_that_goes_on_is_decided_again(tmp_path: Path) -> None:
    pruner = pruner_of(ASHA, [make_run(tmp_path, f"run_{n}", [0.9, 0.9]) for n in range(5)])
    stopped = make_run(tmp_path, "it", [0.1, 0.1], state="stopped")
    pruner.begin(stopped, num_epochs=100)
    assert pruner.should_stop(stopped, num_epochs=100)


def test_what_an_earlier_run_left_does_not_count(tmp_path: Path) -> None:
    pruner = pruner_of(ASHA, [make_run(tmp_path, f"run_{n}", [0.9, 0.9]) for n in range(5)])
    folder = make_run(tmp_path, "it", [0.1, 0.1])
    folder.run.unlink()  # as when a search restarts it
    pruner.begin(folder, num_epochs=100)
    assert not pruner.should_stop(folder, num_epochs=100)


# Hyperband ----------------------------------------------------------------------------------------------------------


def test_brackets_share_the_runs_as_in_the_paper() -> None:
    # ceil(5 * 3^s / (s + 1)) for s = 4, ..., 0: the paper's example of R = 81.
    assert shares_of_brackets(81, 3) == [81, 34, 15, 8, 5]


def test_a_run_competes_within_its_bracket_and_brackets_begin_at_higher_rungs(tmp_path: Path) -> None:
    rule = EarlyTerminate(type="hyperband", min_iter=1, eta=3)
    stopped_at: dict[int, int] = {}
    for number in range(150):
        pruner = Pruner(rule, Metric())
        for n in range(400):  # enough of the best for every bracket to have some
            pruner.begin(Folder(tmp_path / f"good_{n}"), num_epochs=9)
        for course in pruner._courses.values():
            course.best = [0.9] * 9
        folder = Folder(tmp_path / f"bad_{number}")
        pruner.begin(folder, num_epochs=9)
        for epoch in range(1, 10):
            pruner._courses[folder].best = [0.1] * epoch
            if pruner.should_stop(folder, num_epochs=9):
                break
        stopped_at[epoch] = stopped_at.get(epoch, 0) + 1
    # 9, 5 and 3 of 17 runs begin at rungs of 1, 3 and 9 epochs; the last is the runs' end.
    assert set(stopped_at) == {1, 3, 9}
    assert stopped_at[1] > stopped_at[3] > stopped_at[9]


# All rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["median", "asha", "hyperband"])
def test_bad_runs_are_stopped_and_never_the_best_of_an_epoch(tmp_path: Path, kind: str) -> None:
    draw = random.Random(0)
    pruner = Pruner(EarlyTerminate.model_validate({"type": kind, "min_iter": 2}), Metric())
    courses: dict[str, list[float]] = {}
    num_stopped = 0
    for number in range(60):
        level, name = draw.random(), f"run_{number}"
        values = [level + 0.2 * draw.random() for _ in range(20)]
        folder = Folder(tmp_path / name)
        pruner.begin(folder, num_epochs=20)
        for epoch in range(1, 21):
            make_run(tmp_path, name, values[:epoch], state="finished" if epoch == 20 else "running")
            pruner.look(folder)
            courses[name] = values[:epoch]
            if pruner.should_stop(folder, num_epochs=20):
                num_stopped += 1
                assert max(values[:epoch]) < max(
                    max(other[:epoch]) for other in courses.values() if len(other) >= epoch
                )
                break
    assert num_stopped > 15


# The driver ---------------------------------------------------------------------------------------------------------

ALPHAS = [0.9, 0.1, 0.2, 0.3]


@pytest.fixture
def pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    """The first run is the best, and the others are so from their first epoch on."""
    monkeypatch.setattr("model.search.run_queue.LOOK_SECONDS", 0.0)
    search = {"early_terminate": {"type": "asha", "min_iter": 1, "eta": 2}}
    return FakeSearch(tmp_path, {"alpha": ALPHAS}, search=search, student={"seconds": 0.15}, num_epochs=8)


def test_bad_runs_are_stopped_and_told(pruning: FakeSearch, capsys: pytest.CaptureFixture[str]) -> None:
    assert pruning.run(jobs=1) == 0
    assert [pruning.state(f"alpha_{alpha}") for alpha in ALPHAS] == ["finished", "pruned", "pruned", "pruned"]
    assert all(len(pruning.history(f"alpha_{alpha}")) < 5 for alpha in ALPHAS[1:])
    shown = capsys.readouterr().err
    assert "alpha_0.1: pruned after 0 s, val_accuracy 10.00 %; 1 of 4 finished, 1 pruned, best 90.00 %" in shown
    assert shown.endswith("1 of 4 runs are finished, 3 pruned\n")


def test_a_second_call_leaves_pruned_runs_alone(pruning: FakeSearch, capsys: pytest.CaptureFixture[str]) -> None:
    pruning.run(jobs=1)
    capsys.readouterr()
    assert pruning.run(jobs=1) == 0
    assert len(pruning.begun()) == 4
    assert "4 runs: 1 finished, 3 pruned" in capsys.readouterr().err


def test_the_table_says_which_runs_were_pruned(pruning: FakeSearch) -> None:
    pruning.run(jobs=1)
    table = results_table(pruning.folder)
    assert [line.count("pruned") for line in table.splitlines()] == [0, 0, 0, 1, 1, 1]


def test_restart_begins_pruned_runs_anew(pruning: FakeSearch) -> None:
    pruning.run(jobs=1)
    pruning.change(early_terminate=None)
    assert pruning.run(restart=True) == 0
    assert {pruning.state(f"alpha_{alpha}") for alpha in ALPHAS} == {"finished"}


def test_a_run_that_was_stopped_but_not_told_is_stopped_again(pruning: FakeSearch) -> None:
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


def test_a_sampler_is_told_of_pruned_runs(pruning: FakeSearch) -> None:
    pruning.change(method="tpe", run_cap=4)
    assert pruning.run(jobs=1) == 0
    states = {trial.params["alpha"]: trial.state.name for trial in pruning.study().trials}
    assert len(states) == 4
    assert states[0.9] == "COMPLETE"
    assert "PRUNED" in states.values()
