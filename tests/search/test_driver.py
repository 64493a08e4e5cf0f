"""The driver: what is executed, in which order, and how failures are handled and logged."""

import re
from pathlib import Path
from typing import Any

import pytest

from model.cpus import THREAD_VARIABLES
from model.errors import UserError
from model.search.executors.base import Job, JobHandle
from model.search.executors.local import LocalExecutor
from model.search.run_queue import FailurePolicy
from tests.search.fake_search import BASE, FakeSearch, tree, write

ALPHAS = {"alpha": [0.1, 0.2, 0.3, 0.4]}
RUNS = [f"alpha_{alpha}" for alpha in ALPHAS["alpha"]]


def with_outcomes(tmp_path: Path, *outcomes: str, **student: Any) -> FakeSearch:
    return FakeSearch(tmp_path, {"student.outcome": list(outcomes)}, student={"outcome": "finish"} | student)


def test_all_runs_are_executed_in_order(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    assert fake.run(jobs=1) == 0
    assert fake.begun() == RUNS
    assert [fake.state(run) for run in RUNS] == ["finished"] * 4


def test_the_command_is_the_train_command_with_the_folder(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    fake.run()
    assert fake.events("begin")[0]["argv"] == [*fake.command[2:], "--model_dir", str(fake.folder / "alpha_0.1")]


def test_finished_runs_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    capsys.readouterr()
    assert fake.run() == 0
    assert sorted(fake.begun()) == RUNS
    assert "4 runs: 4 finished" in capsys.readouterr().err


def test_a_larger_grid_runs_what_is_new(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    write(fake.folder / "search.json", {"parameters": {"alpha": [0.05, *ALPHAS["alpha"]]}})
    assert fake.run() == 0
    assert fake.begun()[4:] == ["alpha_0.05"]


def test_restart_begins_all_anew_even_with_other_parameters(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    write(fake.folder / "params.json", BASE | {"num_epochs": 3})
    assert fake.run(restart=True) == 0
    assert sorted(fake.begun()) == sorted(RUNS * 2)
    assert {len(fake.history(run)) for run in RUNS} == {3}


def test_a_run_that_was_not_restarted_yet_is_not_taken_for_one_of_the_new_parameters(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    write(fake.folder / "params.json", BASE | {"student": {"name": "cnn", "outcome": "fail"}})
    fake.run(jobs=1, restart=True)  # gives up after three
    assert fake.state("alpha_0.4") == "finished"
    assert fake.run() == 2


def test_as_many_runs_as_jobs_go_at_once_and_never_more(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, student={"seconds": 0.1})
    fake.run(jobs=3)
    at_once, most = 0, 0
    for event in fake.events():
        at_once += 1 if event["event"] == "begin" else -1
        most = max(most, at_once)
    assert most == 3


def test_each_run_gets_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.executors.local.usable_cpus", lambda: 8)
    fake = FakeSearch(tmp_path, ALPHAS)
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    fake.run(jobs=2)
    got = {(event["OMP_NUM_THREADS"], event["MKL_NUM_THREADS"]) for event in fake.events("begin")}
    assert got == {("4", "4")}


def test_runs_on_the_cpu_do_not_see_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    assert {event["CUDA_VISIBLE_DEVICES"] for event in fake.events("begin")} == {""}


def test_each_start_and_end_of_a_run_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.25, 0.75, 0.5]})
    fake.run(jobs=1)
    shown = capsys.readouterr().err
    assert (fake.folder / "search.log").read_text() == shown
    lines = [re.sub(r"\d+ s\b", "N s", line[20:]) for line in shown.splitlines()]  # without the times
    assert lines[1] == "alpha_0.25: started"
    assert lines[2].startswith("alpha_0.25: finished after N s, val_accuracy 25.00 %; 1 of 3 finished, best 25.00 %")
    assert "2 of 3 finished, best 75.00 % (alpha_0.75), about N s left" in lines[4]
    assert "3 of 3 finished, best 75.00 % (alpha_0.75)" in lines[6]
    assert lines[7] == "3 of 3 runs are finished"


def test_the_best_run_is_the_best_in_the_searchs_own_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, {})
    metric = {"name": "val_accuracy", "goal": "minimize"}
    write(fake.folder / "search.json", {"metric": metric, "parameters": {"alpha": [0.5, 0.25, 0.75]}})
    fake.run(jobs=1)
    assert "3 of 3 finished, best 25.00 % (alpha_0.25)" in capsys.readouterr().err


def test_the_results_of_a_teacher_without_weights_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]}, teacher="../one")
    teacher = tmp_path / "experiments" / "one"
    write(teacher / "params.json", {})
    write(teacher / "run.json", {"state": "finished", "epoch": 2})
    write(teacher / "metrics_test_best_weights.json", {"accuracy": 0.9})
    assert fake.run() == 2
    assert f"error: {teacher}: holds results that no run here can go on from: metrics_test" in capsys.readouterr().err
    assert fake.events() == []


# Failures -----------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_logged_with_its_last_lines_and_the_others_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = with_outcomes(tmp_path, "fail", "finish")
    assert fake.run(jobs=1) == 1
    error = capsys.readouterr().err
    assert "outcome_fail: failed (exit status 1)" in error
    assert f"the last lines of {fake.folder}/outcome_fail/stdout.log:\n    the first line\n    loss is not" in error
    assert "1 of 2 runs are finished; failed: outcome_fail" in error
    assert fake.state("outcome_finish") == "finished"


def test_only_the_lines_of_the_last_attempt_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = with_outcomes(tmp_path, "die")
    write(fake.folder / "outcome_die" / "params.json", {})
    (fake.folder / "outcome_die" / "stdout.log").write_text("of an earlier attempt\n")
    fake.run()
    assert "of an earlier attempt" not in capsys.readouterr().err


def test_a_failed_run_is_retried_by_the_next_call(tmp_path: Path) -> None:
    fake = with_outcomes(tmp_path, "fail", "finish")
    fake.run()
    assert fake.run() == 1
    assert sorted(fake.begun()) == ["outcome_fail", "outcome_fail", "outcome_finish"]


@pytest.mark.parametrize(
    ("outcome", "event"),
    [
        ("refuse", "failed (exit status 2)"),
        ("die", "failed (killed by SIGKILL, the machine may be out of memory)"),
        ("forget", "failed (exit status 0, but its run is not finished)"),
    ],
)
def test_every_bad_end_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: str, event: str
) -> None:
    fake = with_outcomes(tmp_path, outcome)
    assert fake.run() == 1
    assert f"outcome_{outcome}: {event}" in capsys.readouterr().err


def test_a_run_that_was_stopped_from_outside_is_left_for_the_next_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = with_outcomes(tmp_path, "stopped from outside", "finish", seconds=0.05)
    assert fake.run() == 75
    assert "1 of 2 runs are finished; stopped from outside: outcome_stopped-from-outside" in capsys.readouterr().err
    assert fake.run() == 0
    assert len(fake.history("outcome_stopped-from-outside")) == 2


def test_a_search_whose_first_three_runs_fail_gives_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3, 0.4, 0.5]}, student={"outcome": "fail"})
    assert fake.run(jobs=1) == 1
    assert len(fake.begun()) == 3
    error = capsys.readouterr().err
    assert "3 runs in a row have failed; no more runs are started" in error
    assert "loss is not finite" in error


def test_three_failures_after_a_finished_run_do_not_end_a_search(tmp_path: Path) -> None:
    fake = with_outcomes(tmp_path, "finish", "fail", "refuse", "die", "forget")
    assert fake.run(jobs=1) == 1
    assert len(fake.begun()) == 5


def test_a_search_gives_up_after_max_failures_in_a_row(tmp_path: Path) -> None:
    fake = with_outcomes(tmp_path, "finish", "fail", "refuse", "die", "forget")
    assert fake.run(jobs=1, failure_policy=FailurePolicy(max_failures=2)) == 1
    assert fake.begun() == ["outcome_finish", "outcome_fail", "outcome_refuse"]


def test_a_finished_run_resets_the_count_of_failures(tmp_path: Path) -> None:
    fake = with_outcomes(tmp_path, "fail", "finish", "die")
    fake.run(jobs=1, failure_policy=FailurePolicy(max_failures=2))
    assert len(fake.begun()) == 3


def test_ten_failures_in_a_row_end_a_search_that_has_finished_runs(tmp_path: Path) -> None:
    accuracies = {"accuracy": {"values": [f"0.5 if {n} == 0 else 1 / 0" for n in range(13)]}}
    fake = FakeSearch(tmp_path, accuracies, student={"accuracy": "alpha"})
    assert fake.run(jobs=1) == 1
    assert len(fake.begun()) == 1 + 10


def test_a_failed_run_is_retried_up_to_the_given_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = with_outcomes(tmp_path, "fail once", "fail", "finish")
    assert fake.run(jobs=1, failure_policy=FailurePolicy(retries=2)) == 1
    assert sorted(fake.begun()) == ["outcome_fail"] * 3 + ["outcome_fail-once"] * 2 + ["outcome_finish"]
    error = capsys.readouterr().err
    assert "outcome_fail-once: failed (exit status 1); will be retried\n" in error
    assert error.count("the last lines of") == 4
    assert error.endswith("2 of 3 runs are finished; failed: outcome_fail\n")


def test_a_retry_of_a_restart_resumes(tmp_path: Path) -> None:
    fake = with_outcomes(tmp_path, "fail once")
    fake.run()
    fake.events_file.unlink()
    assert fake.run(restart=True, failure_policy=FailurePolicy(retries=1)) == 0
    assert ["--restart" in event["argv"] for event in fake.events("begin")] == [True, False]


def test_a_command_that_is_not_there_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    monkeypatch.setattr(FakeSearch, "command", ["/no/such/python"])
    assert fake.run() == 1
    assert "alpha_0.1: failed" in capsys.readouterr().err


def test_a_run_whose_folder_cannot_be_made_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    (fake.folder / "alpha_0.2").write_text("a file is in the way")
    assert fake.run() == 1
    assert "alpha_0.2: failed (" in capsys.readouterr().err
    assert sorted(fake.begun()) == ["alpha_0.1", "alpha_0.3", "alpha_0.4"]


def test_a_run_that_exceeds_its_time_limit_fails_and_the_others_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"seconds": [30, 0]}, student={"seconds": 0})
    assert fake.run(jobs=1, failure_policy=FailurePolicy(time_limit=1)) == 1
    assert "seconds_30: failed (time limit of 1 s exceeded) after 1 s" in capsys.readouterr().err
    assert [fake.state(run) for run in ("seconds_30", "seconds_0")] == ["failed", "finished"]
    assert fake.read("seconds_30", "run.json")["error"] == "time limit of 1 s exceeded"
    assert fake.run(failure_policy=FailurePolicy(time_limit=1)) == 1
    assert fake.begun() == ["seconds_30", "seconds_0", "seconds_30"]


def test_a_run_that_finishes_while_it_is_stopped_for_its_time_is_finished(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]}, student={"seconds": 0.8, "deaf": True})
    assert fake.run(failure_policy=FailurePolicy(time_limit=1)) == 0
    assert fake.state("alpha_0.1") == "finished"


# Executors of clusters ----------------------------------------------------------------------------------------------


class WithEarlierJob(LocalExecutor):
    """An executor that already executes the run alpha_0.2."""

    def attach(self, job: Job) -> JobHandle | None:
        return self.submit(job) if job.folder.name == "alpha_0.2" else None


def test_a_job_of_an_earlier_call_is_waited_for_and_not_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    for run in ("alpha_0.2", "alpha_0.3"):
        write(fake.folder / run / "run.json", {"state": "stopped"})
        (fake.folder / run / "metrics.jsonl").unlink()
    fake.events_file.unlink()
    assert fake.run(jobs=1, make_executor=WithEarlierJob.for_runs) == 0
    assert fake.begun() == ["alpha_0.2", "alpha_0.3"]
    error = capsys.readouterr().err
    assert error.count("alpha_0.2: still running, started by an earlier call\n") == 1
    assert error.endswith("4 of 4 runs are finished\n")


def test_a_run_is_not_restarted_while_a_job_of_an_earlier_call_executes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Busy(LocalExecutor):
        def attach(self, job: Job) -> JobHandle | None:
            return JobHandle("7") if job.folder.name == "alpha_0.2" else None

    fake = FakeSearch(tmp_path, ALPHAS)
    fake.run()
    before = (fake.folder / "alpha_0.1" / "run.json").read_bytes()
    assert fake.run(make_executor=Busy.for_runs, restart=True) == 2
    error = "error: alpha_0.2: a job of an earlier call still executes this run; cancel it before --restart\n"
    assert capsys.readouterr().err.endswith(error)
    assert (fake.folder / "alpha_0.1" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "search",
    [{"parameters": ALPHAS}, {"parameters": {"alpha": {"min": 0.1, "max": 0.9}}, "method": "tpe", "run_cap": 4}],
)
def test_an_executor_without_room_is_waited_for(tmp_path: Path, search: dict[str, Any]) -> None:
    class BusyAtFirst(LocalExecutor):
        num_calls = 0

        def can_submit(self) -> bool:
            self.num_calls += 1
            return self.num_calls > 5 and super().can_submit()

    fake = FakeSearch(tmp_path, search["parameters"], search=search)
    assert fake.run(make_executor=BusyAtFirst.for_runs) == 0
    assert len(fake.begun()) == 4


def test_an_executor_that_can_never_execute_the_runs_is_an_error_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class WithoutGpus(LocalExecutor):
        def can_submit(self) -> bool:
            raise UserError("no node has 9 GPUs")

    fake = FakeSearch(tmp_path, ALPHAS)
    assert fake.run(make_executor=WithoutGpus.for_runs) == 2
    assert capsys.readouterr().err.endswith("error: no node has 9 GPUs\n")
    assert fake.begun() == []


# The teacher --------------------------------------------------------------------------------------------------------


def with_teacher(tmp_path: Path, **teachers_student: Any) -> FakeSearch:
    fake = FakeSearch(tmp_path, ALPHAS, teacher="../teacher")
    student = BASE["student"] | teachers_student
    write(tmp_path / "experiments" / "teacher" / "params.json", BASE | {"student": student})
    return fake


def test_the_teacher_is_trained_once_and_first(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path, seconds=0.1)
    assert fake.run() == 0
    assert [(event["run"], event["event"]) for event in fake.events()][:2] == [("teacher", "begin"), ("teacher", "end")]
    assert sorted(fake.begun()) == [*RUNS, "teacher"]


def test_the_teacher_gets_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.executors.local.usable_cpus", lambda: 8)
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    fake = with_teacher(tmp_path)
    fake.run(jobs=4)
    assert [event["OMP_NUM_THREADS"] for event in fake.events("begin")] == ["8", "2", "2", "2", "2"]


def test_the_teachers_params_json_is_left_as_it_is(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path)
    before = (tmp_path / "experiments" / "teacher" / "params.json").read_bytes()
    fake.run()
    assert (tmp_path / "experiments" / "teacher" / "params.json").read_bytes() == before


def test_no_run_is_started_without_its_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = with_teacher(tmp_path, outcome="fail")
    assert fake.run() == 1
    assert fake.begun() == ["teacher"]
    error = capsys.readouterr().err
    assert "loss is not finite" in error
    assert error.endswith("teacher could not be trained, so no run was started\n")


def test_a_teacher_that_was_stopped_from_outside_stops_the_search(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path, outcome="stopped from outside", seconds=0.05)
    assert fake.run() == 75
    assert fake.begun() == ["teacher"]


def test_restart_leaves_a_trained_teacher_alone(tmp_path: Path) -> None:
    fake = with_teacher(tmp_path)
    fake.run()
    before = tree(tmp_path / "experiments" / "teacher")
    assert fake.run(restart=True) == 0
    assert tree(tmp_path / "experiments" / "teacher") == before
