"""What SLURM adds: nodes that are taken away, queues, jobs that outlive their driver. On a real one of two nodes."""

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
from model.search.executors.slurm import SlurmExecutor, name_of
from model.search.executors.slurm_commands import Refused, SlurmOptions, cancel, sbatch
from tests.search.executors.clusters import PATIENCE, SlurmCluster
from tests.search.executors.test_executors import DEAF, SAVING, end_of, python, wait_for_log
from tests.search.fake_search import FakeSearch, is_alive, wait_until

pytestmark = pytest.mark.cluster
ON_CPU = SlurmOptions(minutes=10, gpus="0")
IN_A_PROCESS = (
    "from functools import partial; from model.search import slurm; from model.search.slurm_commands import Asked;"
    "slurm.SQUEUE_SECONDS = 0.2;"
    "engine = partial(slurm.SlurmEngine.for_runs, folder=parent / '.slurm', asked=Asked(minutes=10, gpus='0'))"
)


@pytest.fixture(autouse=True)
def quick(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting for a file system that lags; nothing is left in the queue."""
    monkeypatch.setattr("model.search.executors.slurm.SQUEUE_SECONDS", 0.2)
    monkeypatch.setattr("model.search.executors.slurm.LOST_SECONDS", 1.0)
    yield
    slurm.clear()


def engine_in(folder: Path, *, asked: SlurmOptions = ON_CPU, at_once: int = 4) -> SlurmExecutor:
    return SlurmExecutor(folder / ".slurm", asked, at_once=at_once)


def on_slurm(fake: FakeSearch, *, asked: SlurmOptions = ON_CPU) -> Any:
    return partial(SlurmExecutor.for_runs, folder=fake.folder / ".slurm", asked=asked)


def only_job(slurm: SlurmCluster) -> str:
    wait_until(lambda: list(slurm.jobs().values()) == ["RUNNING"], PATIENCE)
    return next(iter(slurm.jobs()))


def signal_job(number: str, *signals: str) -> None:
    for each in signals:
        cancel(f"--signal={each}", number)


# What a job gets ----------------------------------------------------------------------------------------------------


def test_jobs_spread_over_the_nodes(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, asked=SlurmOptions(minutes=10, gpus="0", cpus=2))
    program = "import os, time; print(os.environ['SLURMD_NODENAME'], os.environ['OMP_NUM_THREADS'], flush=True); "
    handles = [engine.submit(python(tmp_path / str(n), program + "time.sleep(60)")) for n in range(2)]
    for number in range(2):
        wait_for_log(tmp_path / str(number), "\n")
    told = {(tmp_path / str(number) / "stdout.log").read_text() for number in range(2)}
    assert told == {"n1 2\n", "n2 2\n"}
    for handle in handles:
        engine.kill(handle)
        end_of(engine, handle)


def test_a_job_sees_the_gpus_that_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    engine = engine_in(tmp_path, asked=SlurmOptions(minutes=10, gpus="1"))
    end_of(engine, engine.submit(python(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")))
    assert (tmp_path / "stdout.log").read_text() in ("0\n", "1\n")


def test_further_options_reach_sbatch(tmp_path: Path, slurm: SlurmCluster) -> None:
    flags: dict[str, str | bool] = {"comment": "two words", "nodelist": "n2"}
    engine = engine_in(tmp_path, asked=SlurmOptions(minutes=10, gpus="0", partition="debug", flags=flags))
    handle = engine.submit(python(tmp_path, SAVING))
    wait_for_log(tmp_path, "ready")
    told = slurm.asked("squeue", "-h", "-o", "%k|%N|%P|%l")
    assert told == "two words|n2|debug|10:00\n"
    engine.kill(handle)
    end_of(engine, handle)


def test_the_folder_tells_which_job_works_in_it(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine = engine_in(tmp_path)
    handle = engine.submit(python(tmp_path, SAVING))
    wait_for_log(tmp_path, "ready")
    told = json.loads((tmp_path / "node.json").read_text())
    assert told["job"] == f"SLURM job {only_job(slurm)}"
    assert is_alive(told["process"])
    engine.stop(handle)
    end_of(engine, handle)
    assert not (tmp_path / "node.json").exists()


def test_a_driver_that_is_a_job_itself_does_not_pass_on_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_CPUS_PER_TASK", "9"), ("SLURM_JOB_GPUS", "0")):
        monkeypatch.setenv(name, value)
    engine = engine_in(tmp_path)
    program = "import os; print(os.environ['OMP_NUM_THREADS'], repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    assert end_of(engine, engine.submit(python(tmp_path, program))) == JobEnd(0)
    assert (tmp_path / "stdout.log").read_text() == "1 ''\n"


# What SLURM does to a job -------------------------------------------------------------------------------------------


def taken_off_its_node_and_gone_on(tmp_path: Path, slurm: SlurmCluster, take: Callable[[str], object]) -> None:
    """A run whose job, of the number that `take` is given, is requeued in the middle of it."""
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.5})
    driver = fake.start(engine=IN_A_PROCESS)
    wait_until(lambda: fake.folder.joinpath("alpha_0.5", "metrics.jsonl").exists(), PATIENCE)
    number = only_job(slurm)
    take(number)
    slurm.begin_at_once(number)
    assert driver.communicate(timeout=PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    assert [event["event"] for event in fake.events()] == ["begin", "stop", "begin", "end"]
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("signals", [["USR2"], ["TERM", "USR2"]], ids=["time is over", "preempted"])
def test_a_job_whose_node_is_wanted_back_saves_and_goes_on(
    tmp_path: Path, slurm: SlurmCluster, signals: list[str]
) -> None:
    taken_off_its_node_and_gone_on(tmp_path, slurm, lambda number: signal_job(number, *signals))


def test_a_job_that_an_urgent_one_displaces_saves_and_goes_on(tmp_path: Path, slurm: SlurmCluster) -> None:
    urgent = ("sbatch", "-p", "urgent", "--nodes=2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    taken_off_its_node_and_gone_on(tmp_path, slurm, lambda _: slurm.asked(*urgent))


def test_a_run_that_begins_anew_does_so_once(tmp_path: Path, slurm: SlurmCluster) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.5})
    folder = fake.folder / "alpha_0.5"
    folder.mkdir()
    shutil.copy(fake.folder / "params.json", folder)
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n' * 5)
    engine = engine_in(fake.folder)
    handle = engine.submit(Job(folder, (*fake.command, "--model_dir", str(folder)), ("--restart",)))
    run = folder / "run.json"
    wait_until(lambda: run.exists() and fake.read("alpha_0.5", "run.json")["epoch"] == 2, PATIENCE)
    number = only_job(slurm)
    signal_job(number, "USR2")
    slurm.begin_at_once(number)
    assert end_of(engine, handle) == JobEnd(0)
    assert ["--restart" in event["argv"] for event in fake.events("begin")] == [True, False]
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6]


def test_a_job_that_hangs_when_its_time_is_over_is_not_requeued(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine = engine_in(tmp_path)
    handle = engine.submit(python(tmp_path, "import signal; signal.signal(12, lambda *_: 0);" + DEAF, grace=0.5))
    wait_for_log(tmp_path, "ready")
    signal_job(only_job(slurm), "USR2")
    assert end_of(engine, handle) == JobEnd(-signal.SIGKILL, "it was told to save and end, and did not")


def test_a_job_that_somebody_cancels_has_failed_and_slurms_words_are_told(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine = engine_in(tmp_path)
    handle = engine.submit(python(tmp_path, SAVING))
    wait_for_log(tmp_path, "ready")
    number = only_job(slurm)
    cancel(number)
    status, why = end_of(engine, handle)
    assert status == -signal.SIGKILL
    assert why is not None
    assert why.startswith(f"SLURM job {number} left the queue: ")
    assert "CANCELLED" in why
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_a_run_that_somebody_stops_on_the_node_is_told_as_stopped(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    handle = engine.submit(python(tmp_path, "import os; print(os.getpid(), flush=True); " + SAVING))
    wait_for_log(tmp_path, "ready")
    subprocess.run(["kill", (tmp_path / "stdout.log").read_text().split()[0]], check=True)
    assert end_of(engine, handle) == JobEnd(75)


def test_a_job_that_is_stopped_while_it_waits_never_begins(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine = engine_in(tmp_path, asked=SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"}))
    handle = engine.submit(python(tmp_path, "print('begun')"))
    wait_until(lambda: list(slurm.jobs().values()) == ["PENDING"], PATIENCE)
    engine.stop(handle)
    assert end_of(engine, handle) == JobEnd(-signal.SIGTERM)
    assert not (tmp_path / "stdout.log").exists()


def test_a_killed_slurmd_costs_no_run(tmp_path: Path, slurm: SlurmCluster) -> None:
    asked = SlurmOptions(minutes=10, gpus="0", flags={"nodelist": "n2"})
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=6, student={"seconds": 0.3})
    driver = fake.start(engine=IN_A_PROCESS.replace("gpus='0'", f"gpus='0', flags={dict(asked.flags)}"))
    wait_until(lambda: len(fake.events("begin")) == 1, PATIENCE)
    slurm.kill_node("n2")
    try:
        assert driver.communicate(timeout=PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    finally:
        slurm.start_node("n2")
    assert [event["event"] for event in fake.events()] == ["begin", "end"]


def test_what_goes_wrong_on_the_node_is_told_in_one_line(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine = engine_in(tmp_path, asked=SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"}))
    handle = engine.submit(python(tmp_path / "run", "pass"))
    (tmp_path / "run").rmdir()
    number = next(iter(slurm.jobs()))
    slurm.begin_at_once(number)
    status, why = end_of(engine, handle)
    assert status == 1
    assert why is not None
    assert why.startswith(f"SLURM job {number}: FileNotFoundError: ")
    assert "\n" not in why


# The driver ---------------------------------------------------------------------------------------------------------


def test_a_killed_drivers_jobs_go_on_and_the_next_driver_takes_them_up(tmp_path: Path, slurm: SlurmCluster) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3]}, num_epochs=8, student={"seconds": 0.5})
    driver = fake.start(jobs=2, engine=IN_A_PROCESS)
    wait_until(lambda: len(fake.events("begin")) == 2, PATIENCE)
    driver.kill()
    error = driver.communicate()[1]
    numbers = re.findall(r"alpha_0\.\d: SLURM job (\d+)", error)
    assert sorted(slurm.jobs()) == sorted(numbers)
    assert fake.run(jobs=2, engine=on_slurm(fake)) == 0
    told = (fake.folder / "search.log").read_text()
    assert told.count(" goes on, as an earlier call began it") == 2
    assert sorted(fake.begun()) == ["alpha_0.1", "alpha_0.2", "alpha_0.3"]
    assert [[row["epoch"] for row in fake.history(run)] for run in fake.runs()] == [[*range(1, 9)]] * 3


def test_a_job_that_still_waits_is_taken_up_too(tmp_path: Path, slurm: SlurmCluster) -> None:
    asked = SlurmOptions(minutes=10, gpus="0", flags={"begin": "now+1hour"})
    job = python(tmp_path / "run", "print('done')")
    first = engine_in(tmp_path, asked=asked)
    handle = first.submit(job)
    second = engine_in(tmp_path)
    assert second.attach(job) == handle
    assert second.attach(python(tmp_path / "other", "pass")) is None
    slurm.begin_at_once(next(iter(slurm.jobs())))
    assert end_of(second, handle) == JobEnd(0)
    assert (tmp_path / "run" / "stdout.log").read_text() == "done\n"


def test_begin_anew_is_refused_while_an_earlier_calls_job_goes(
    tmp_path: Path, slurm: SlurmCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]}, num_epochs=3, student={"seconds": 60})
    driver = fake.start(engine=IN_A_PROCESS)
    wait_until(lambda: len(fake.events("begin")) == 1, PATIENCE)
    driver.kill()
    driver.communicate()
    capsys.readouterr()
    assert fake.run(engine=on_slurm(fake), restart=True) == 2
    assert "error: alpha_0.1: a job of an earlier call still works on it" in capsys.readouterr().err


def test_a_driver_that_cannot_see_the_queue_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.executors.slurm.look_at_queue", lambda: None)
    with pytest.raises(UserError, match="squeue does not answer"):
        engine_in(tmp_path).attach(python(tmp_path, "pass"))


def test_a_job_that_sbatch_refuses_is_submitted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse_once(*given: Any) -> str:
        calls.append(given)
        if len(calls) == 1:
            raise Refused("too many jobs")
        return sbatch(*given)

    monkeypatch.setattr("model.search.executors.slurm.sbatch", refuse_once)
    monkeypatch.setattr("model.search.executors.slurm.AGAIN_SECONDS", 0.5)
    engine = engine_in(tmp_path)
    assert end_of(engine, engine.submit(python(tmp_path, "pass"))) == JobEnd(0)
    assert len(calls) == 2


def test_what_sbatch_does_not_take_is_told_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    assert fake.run(engine=on_slurm(fake, asked=SlurmOptions(minutes=10, gpus="0", partition="nowhere"))) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --engine slurm: sbatch: error: ")
    assert "nvalid partition" in error
    assert fake.events() == []


def test_a_node_that_does_not_see_the_folder_is_told_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "model.search.executors.slurm.write_text", lambda path, text: None
    )  # as if the file were written elsewhere
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    assert fake.run(engine=on_slurm(fake)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"error: SLURM job \d+ cannot do what the search needs: FileNotFoundError: .*; the search's", error
    )
    assert fake.events() == []


def test_a_search_that_was_checked_once_is_not_checked_again(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1]})
    assert fake.run(engine=on_slurm(fake)) == 0
    write_more = {"parameters": {"alpha": [0.1, 0.2]}}
    (fake.folder / "search.json").write_text(json.dumps(write_more))
    assert fake.run(engine=on_slurm(fake)) == 0
    assert (fake.folder / "search.log").read_text().count("looks whether a node sees") == 1


def test_a_job_is_named_after_its_run_and_its_folder(tmp_path: Path) -> None:
    names = [name_of(python(tmp_path / each / "alpha_0.5 x=ü", "")) for each in (".", "other")]
    assert names[0] != names[1]
    assert all(re.fullmatch(r"alpha_0\.5_x__-[0-9a-f]{10}", name) for name in names)
