"""The worker of any cluster's job, without a cluster."""

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.search.executors import worker
from model.search.executors.base import JobEnd
from tests.search.executors.test_executors import IGNORES_SIGTERM, SAVES_ON_SIGTERM, python
from tests.search.fake_search import is_alive, wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMAND_POLL_SECONDS", 0.05)


def in_a_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def when_ready(folder: Path, action: Callable[[], object]) -> threading.Thread:
    """Do something as soon as the job in a folder has printed "ready"."""
    log = folder / "stdout.log"

    def wait_and_act() -> None:
        wait_until(lambda: log.exists() and "ready" in log.read_text())
        action()

    return in_a_thread(wait_and_act)


def test_the_command_stop_is_obeyed(tmp_path: Path) -> None:
    job = python(tmp_path, SAVES_ON_SIGTERM)
    thread = when_ready(tmp_path, lambda: worker.send_command(job, "stop"))
    assert worker.run_job(job, {}, name="1") == JobEnd(75)
    thread.join()
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_the_command_kill_is_obeyed_after_stop(tmp_path: Path) -> None:
    job = python(tmp_path, IGNORES_SIGTERM)

    def send_commands() -> None:
        worker.send_command(job, "stop")
        time.sleep(0.2)
        worker.send_command(job, "kill")

    thread = when_ready(tmp_path, send_commands)
    assert worker.run_job(job, {}, name="1") == JobEnd(-signal.SIGKILL)
    thread.join()


def test_a_job_with_a_command_to_stop_does_not_begin(tmp_path: Path) -> None:
    job = python(tmp_path, "print('begun')")
    worker.send_command(job, "stop")
    assert worker.run_job(job, {}, name="1") == JobEnd(-signal.SIGTERM)
    assert not (tmp_path / "stdout.log").exists()


def test_a_job_waits_until_an_earlier_attempt_has_saved(tmp_path: Path) -> None:
    other_host = {"state": "running", "process": 1, "host": f"not {socket.gethostname()}"}
    (tmp_path / "run.json").write_text(json.dumps(other_host))
    job = python(tmp_path, "print('begun')")
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def save() -> None:
            time.sleep(0.3)
            (tmp_path / "stdout.log").write_text("saved\n")
            fcntl.flock(lock, fcntl.LOCK_UN)

        thread = in_a_thread(save)
        assert worker.run_job(job, {}, name="1") == JobEnd(0)
        thread.join()
    assert (tmp_path / "stdout.log").read_text() == "saved\nbegun\n"


def test_a_preempted_job_saves(tmp_path: Path) -> None:
    preempted: list[int] = []
    thread = when_ready(tmp_path, lambda: preempted.append(1))
    assert worker.run_job(
        python(tmp_path, SAVES_ON_SIGTERM), {}, name="1", is_preempted=lambda: bool(preempted)
    ) == JobEnd(75)
    thread.join()


def test_a_preempted_job_that_does_not_exit_is_killed_with_an_error(tmp_path: Path) -> None:
    preempted: list[int] = []
    thread = when_ready(tmp_path, lambda: preempted.append(1))
    end = worker.run_job(
        python(tmp_path, IGNORES_SIGTERM, grace_seconds=0.3), {}, name="1", is_preempted=lambda: bool(preempted)
    )
    assert end == JobEnd(-signal.SIGKILL, "did not exit after SIGTERM")
    thread.join()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt: tests that are started in the background inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_worker_lets_the_job_save_first(tmp_path: Path) -> None:
    thread = when_ready(tmp_path, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        worker.run_job(python(tmp_path, SAVES_ON_SIGTERM), {}, name="1")
    thread.join()
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"
    assert not (tmp_path / "node.json").exists()


def test_node_json_exists_while_a_job_runs(tmp_path: Path) -> None:
    seen = []
    job = python(tmp_path, SAVES_ON_SIGTERM)

    def read_and_stop() -> None:
        seen.append((json.loads((tmp_path / "node.json").read_text()), worker.is_running(job)))
        worker.send_command(job, "stop")

    thread = when_ready(tmp_path, read_and_stop)
    worker.run_job(job, {}, name="SLURM job 17")
    thread.join()
    assert seen == [({"job": "SLURM job 17", "host": socket.gethostname(), "process": os.getpid()}, True)]
    assert not worker.is_running(job)


def test_a_job_gets_its_variables_and_ends_with_its_worker(tmp_path: Path) -> None:
    job = python(tmp_path, "import os; print(os.environ['OMP_NUM_THREADS'], os.getpid(), flush=True)")
    assert worker.run_job(job, {"OMP_NUM_THREADS": "3"}, name="1") == JobEnd(0)
    threads, process = (tmp_path / "stdout.log").read_text().split()
    assert threads == "3"
    assert not is_alive(int(process))


def test_a_command_on_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "write_text", fail)
    worker.send_command(python(tmp_path, ""), "stop")
    assert worker.read_command(python(tmp_path, "")) is None
