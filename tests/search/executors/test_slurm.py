"""What SLURM adds: preemption, a queue, jobs that outlive their driver. On a real one of two nodes."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.search.executors.base import Job, JobEnd
from model.search.executors.slurm import SlurmExecutor, job_name
from model.search.executors.slurm_commands import SbatchError, SlurmOptions, cancel, read_queue, sbatch
from tests.search.executors.clusters import PATIENCE, SlurmCluster
from tests.search.executors.test_executors import IGNORES_SIGTERM, SAVES_ON_SIGTERM, end_of, python, wait_for_log
from tests.search.fake_search import FakeSearch, is_alive, wait_until

pytestmark = pytest.mark.cluster
ON_CPU = SlurmOptions(minutes=10, gpus="0")
EXECUTOR_PROGRAM = (
    "from functools import partial; from model.search.executors import slurm; slurm.SQUEUE_SECONDS = 0.2;"
    "make_executor = partial(slurm.SlurmExecutor.for_runs, search_dir=parent, time=10, gpus='0')"
)


@pytest.fixture(autouse=True)
def quick(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting for a slow file system; nothing is left in the queue."""
    monkeypatch.setattr("model.search.executors.slurm.SQUEUE_SECONDS", 0.2)
    monkeypatch.setattr("model.search.executors.slurm.RESULT_SECONDS", 1.0)
    yield
    slurm.clear()


def executor_in(folder: Path, *, options: SlurmOptions = ON_CPU) -> SlurmExecutor:
    return SlurmExecutor(folder / ".slurm", options, max_jobs=4)


def on_slurm(fake: FakeSearch, **options: Any) -> Any:
    return partial(SlurmExecutor.for_runs, search_dir=fake.folder, time=10, gpus="0", **options)


def only_job(slurm: SlurmCluster) -> str:
    wait_until(lambda: list(slurm.jobs().values()) == ["RUNNING"], PATIENCE)
    return next(iter(slurm.jobs()))


def signal_job(job_id: str, *signals: str) -> None:
    for name in signals:
        cancel(f"--signal={name}", job_id)


# Resources of a job -------------------------------------------------------------------------------------------------


def test_jobs_spread_over_the_nodes(tmp_path: Path) -> None:
    executor = executor_in(tmp_path, options=SlurmOptions(minutes=10, gpus="0", cpus=2))
    program = "import os, time; print(os.environ['SLURMD_NODENAME'], os.environ['OMP_NUM_THREADS'], flush=True); "
    handles = [executor.submit(python(tmp_path / str(n), program + "time.sleep(60)")) for n in range(2)]
    for number in range(2):
        wait_for_log(tmp_path / str(number), "\n")
    printed = {(tmp_path / str(number) / "stdout.log").read_text() for number in range(2)}
    assert printed == {"n1 2\n", "n2 2\n"}
    for handle in handles:
        executor.kill(handle)
        end_of(executor, handle)


def test_a_job_sees_the_gpus_that_it_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    executor = executor_in(tmp_path, options=SlurmOptions(minutes=10, gpus="1"))
    end_of(executor, executor.submit(python(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")))
    assert (tmp_path / "stdout.log").read_text() in ("0\n", "1\n")


def test_further_options_reach_sbatch(tmp_path: Path, slurm: SlurmCluster) -> None:
    flags: dict[str, str | bool] = {"comment": "two words", "nodelist": "n2"}
    executor = executor_in(tmp_path, options=SlurmOptions(minutes=10, gpus="0", partition="debug", flags=flags))
    handle = executor.submit(python(tmp_path, SAVES_ON_SIGTERM))
    wait_for_log(tmp_path, "ready")
    row = slurm.output("squeue", "-h", "-o", "%k|%N|%P|%l")
    assert row == "two words|n2|debug|10:00\n"
    executor.kill(handle)
    end_of(executor, handle)


def test_node_json_has_the_job_while_it_runs(tmp_path: Path, slurm: SlurmCluster) -> None:
    executor = executor_in(tmp_path)
    handle = executor.submit(python(tmp_path, SAVES_ON_SIGTERM))
    wait_for_log(tmp_path, "ready")
    node = json.loads((tmp_path / "node.json").read_text())
    assert node["job"] == f"SLURM job {only_job(slurm)}"
    assert is_alive(node["process"])
    executor.stop(handle)
    end_of(executor, handle)
    assert not (tmp_path / "node.json").exists()


def test_a_driver_that_is_a_job_itself_does_not_pass_on_its_own_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_CPUS_PER_TASK", "9"), ("SLURM_JOB_GPUS", "0")):
        monkeypatch.setenv(name, value)
    executor = executor_in(tmp_path)
    program = "import os; print(os.environ['OMP_NUM_THREADS'], repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    assert end_of(executor, executor.submit(python(tmp_path, program))) == JobEnd(0)
    assert (tmp_path / "stdout.log").read_text() == "1 ''\n"


# Preemption, time limits and lost jobs ------------------------------------------------------------------------------


def assert_requeued_and_resumed(tmp_path: Path, slurm: SlurmCluster, preempt: Callable[[str], object]) -> None:
    """A run whose job is requeued in the middle of it by `preempt`, which takes the job's ID."""
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.5})
    driver = fake.start(make_executor=EXECUTOR_PROGRAM)
    wait_until(lambda: fake.folder.joinpath("alpha_0.5", "metrics.jsonl").exists(), PATIENCE)
    job_id = only_job(slurm)
    preempt(job_id)
    slurm.start_now(job_id)
    assert driver.communicate(timeout=PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    assert [event["event"] for event in fake.events()] == ["begin", "stop", "begin", "end"]
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("signals", [["USR2"], ["TERM", "USR2"]], ids=["time limit", "preempted"])
def test_a_job_that_gets_a_signal_saves_and_is_resumed(tmp_path: Path, slurm: SlurmCluster, signals: list[str]) -> None:
    assert_requeued_and_resumed(tmp_path, slurm, lambda job_id: signal_job(job_id, *signals))


def test_a_job_that_an_urgent_one_preempts_saves_and_is_resumed(tmp_path: Path, slurm: SlurmCluster) -> None:
    urgent = ("sbatch", "-p", "urgent", "--nodes=2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    assert_requeued_and_resumed(tmp_path, slurm, lambda _: slurm.output(*urgent))


def test_a_run_is_restarted_once(tmp_path: Path, slurm: SlurmCluster) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.5})
    folder = fake.folder / "alpha_0.5"
    folder.mkdir()
    shutil.copy(fake.folder / "params.json", folder)
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n' * 5)
    executor = executor_in(fake.folder)
    handle = executor.submit(Job(folder, (*fake.command, "--model_dir", str(folder)), ("--restart",)))
    run = folder / "run.json"
    wait_until(lambda: run.exists() and fake.read("alpha_0.5", "run.json")["epoch"] == 2, PATIENCE)
    job_id = only_job(slurm)
    signal_job(job_id, "USR2")
    slurm.start_now(job_id)
    assert end_of(executor, handle) == JobEnd(0)
    assert ["--restart" in event["argv"] for event in fake.events("begin")] == [True, False]
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6]


def test_a_job_that_hangs_at_its_time_limit_is_not_requeued(tmp_path: Path, slurm: SlurmCluster) -> None:
    executor = executor_in(tmp_path)
    handle = executor.submit(
        python(tmp_path, "import signal; signal.signal(12, lambda *_: 0);" + IGNORES_SIGTERM, grace_seconds=0.5)
    )
    wait_for_log(tmp_path, "ready")
    signal_job(only_job(slurm), "USR2")
    assert end_of(executor, handle) == JobEnd(-signal.SIGKILL, "did not exit after SIGTERM")


def test_a_cancelled_job_has_failed_with_the_message_of_slurm(tmp_path: Path, slurm: SlurmCluster) -> None:
    executor = executor_in(tmp_path)
    handle = executor.submit(python(tmp_path, SAVES_ON_SIGTERM))
    wait_for_log(tmp_path, "ready")
    job_id = only_job(slurm)
    cancel(job_id)
    status, error = end_of(executor, handle)
    assert status == -signal.SIGKILL
    assert error is not None
    assert error.startswith(f"SLURM job {job_id} left the queue without a result: ")
    assert "CANCELLED" in error
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_a_run_that_is_stopped_on_the_node_is_not_requeued(tmp_path: Path) -> None:
    executor = executor_in(tmp_path)
    handle = executor.submit(python(tmp_path, "import os; print(os.getpid(), flush=True); " + SAVES_ON_SIGTERM))
    wait_for_log(tmp_path, "ready")
    subprocess.run(["kill", (tmp_path / "stdout.log").read_text().split()[0]], check=True)
    assert end_of(executor, handle) == JobEnd(75)


def test_a_job_that_is_stopped_while_pending_never_begins(tmp_path: Path, slurm: SlurmCluster) -> None:
    executor = executor_in(tmp_path, options=SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"}))
    handle = executor.submit(python(tmp_path, "print('begun')"))
    wait_until(lambda: list(slurm.jobs().values()) == ["PENDING"], PATIENCE)
    executor.stop(handle)
    assert end_of(executor, handle) == JobEnd(-signal.SIGTERM)
    assert not (tmp_path / "stdout.log").exists()


def test_a_killed_slurmd_costs_no_run(tmp_path: Path, slurm: SlurmCluster) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.3})
    driver = fake.start(make_executor=EXECUTOR_PROGRAM.replace("gpus='0'", "gpus='0', sbatch=[('nodelist', 'n2')]"))
    wait_until(lambda: len(fake.events("begin")) == 1, PATIENCE)
    slurm.kill_node("n2")
    try:
        assert driver.communicate(timeout=PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    finally:
        slurm.start_node("n2")
    assert [event["event"] for event in fake.events()] == ["begin", "end"]


def test_an_exception_on_the_node_is_an_error_of_one_line(tmp_path: Path, slurm: SlurmCluster) -> None:
    executor = executor_in(tmp_path, options=SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"}))
    handle = executor.submit(python(tmp_path / "run", "pass"))
    (tmp_path / "run").rmdir()
    job_id = next(iter(slurm.jobs()))
    slurm.start_now(job_id)
    status, error = end_of(executor, handle)
    assert status == 1
    assert error is not None
    assert error.startswith(f"SLURM job {job_id}: FileNotFoundError: ")
    assert "\n" not in error


# The driver ---------------------------------------------------------------------------------------------------------


def test_jobs_of_a_killed_driver_go_on_and_the_next_driver_attaches_to_them(
    tmp_path: Path, slurm: SlurmCluster
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3]}, num_epochs=8, student={"seconds": 0.5})
    driver = fake.start(jobs=2, make_executor=EXECUTOR_PROGRAM)
    wait_until(lambda: len(fake.events("begin")) == 2, PATIENCE)
    driver.kill()
    error = driver.communicate()[1]
    job_ids = re.findall(r"alpha_0\.\d: SLURM job (\d+)", error)
    assert sorted(slurm.jobs()) == sorted(job_ids)
    assert fake.run(jobs=2, make_executor=on_slurm(fake)) == 0
    log = (fake.folder / "search.log").read_text()
    assert log.count("still running, started by an earlier call") == 2
    assert sorted(fake.begun()) == ["alpha_0.1", "alpha_0.2", "alpha_0.3"]
    assert [[row["epoch"] for row in fake.history(run)] for run in fake.runs()] == [[*range(1, 9)]] * 3


def test_the_next_driver_attaches_to_a_pending_job_too(tmp_path: Path, slurm: SlurmCluster) -> None:
    options = SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"})
    job = python(tmp_path / "run", "print('done')")
    first = executor_in(tmp_path, options=options)
    handle = first.submit(job)
    second = executor_in(tmp_path)
    assert second.attach(job) == handle
    assert second.attach(python(tmp_path / "other", "pass")) is None
    slurm.start_now(next(iter(slurm.jobs())))
    assert end_of(second, handle) == JobEnd(0)
    assert (tmp_path / "run" / "stdout.log").read_text() == "done\n"


def test_no_driver_attaches_to_a_job_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = python(tmp_path / "run", SAVES_ON_SIGTERM)
    executor = executor_in(tmp_path)
    handle = executor.submit(job)
    wait_for_log(tmp_path / "run", "ready")
    queue = read_queue()
    executor.stop(handle)
    assert end_of(executor, handle) == JobEnd(75)
    monkeypatch.setattr("model.search.executors.slurm.read_queue", lambda: queue)  # SLURM lags behind the result
    assert [name for _, name in (queue or {}).values()] == [handle]
    assert executor_in(tmp_path).attach(job) is None


def test_restart_is_refused_while_a_job_of_an_earlier_call_runs(
    tmp_path: Path, slurm: SlurmCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]}, num_epochs=3, student={"seconds": 60})
    driver = fake.start(make_executor=EXECUTOR_PROGRAM)
    wait_until(lambda: len(fake.events("begin")) == 1, PATIENCE)
    driver.kill()
    driver.communicate()
    capsys.readouterr()
    assert fake.run(make_executor=on_slurm(fake), restart=True) == 2
    assert "error: alpha_0.1: a job of an earlier call still executes this run" in capsys.readouterr().err


def test_a_driver_that_cannot_read_the_queue_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.executors.slurm.read_queue", lambda: None)
    with pytest.raises(UserError, match="squeue failed, so it is unknown which runs are in SLURM's queue"):
        executor_in(tmp_path).attach(python(tmp_path, "pass"))


def test_a_job_that_sbatch_rejects_is_submitted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def reject_once(*arguments: Any) -> str:
        calls.append(arguments)
        if len(calls) == 1:
            raise SbatchError("too many jobs")
        return sbatch(*arguments)

    monkeypatch.setattr("model.search.executors.slurm.sbatch", reject_once)
    monkeypatch.setattr("model.search.executors.slurm.RESUBMIT_SECONDS", 0.5)
    executor = executor_in(tmp_path)
    assert end_of(executor, executor.submit(python(tmp_path, "pass"))) == JobEnd(0)
    assert len(calls) == 2


def test_options_that_sbatch_rejects_are_an_error_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    assert fake.run(make_executor=on_slurm(fake, partition="nowhere")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --engine slurm: sbatch: error: ")
    assert "nvalid partition" in error
    assert fake.events() == []


def test_a_node_that_does_not_see_the_folder_is_an_error_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "model.search.executors.slurm.write_text", lambda path, text: None
    )  # as if the file were written elsewhere
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    assert fake.run(make_executor=on_slurm(fake)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"error: SLURM job \d+ cannot execute runs: FileNotFoundError: .*; the search's", error)
    assert fake.events() == []


def test_a_search_that_was_checked_once_is_not_checked_again(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    assert fake.run(make_executor=on_slurm(fake)) == 0
    write_more = {"parameters": {"alpha": [0.1, 0.2]}}
    (fake.folder / "search.json").write_text(json.dumps(write_more))
    assert fake.run(make_executor=on_slurm(fake)) == 0
    assert (fake.folder / "search.log").read_text().count("checks whether a node sees") == 1


def test_a_job_name_has_the_name_of_the_run_and_a_digest_of_its_folder(tmp_path: Path) -> None:
    names = [job_name(python(tmp_path / parent / "alpha_0.5 x=ü", "")) for parent in (".", "other")]
    assert names[0] != names[1]
    assert all(re.fullmatch(r"alpha_0\.5_x__-[0-9a-f]{10}", name) for name in names)
