"""What ends or hinders a search from outside: Ctrl-C, SIGTERM, kill -9, a second search; the terminal display."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.search.fake_search import FakeSearch, is_alive, wait_until, write

ALPHAS = [0.1, 0.2, 0.3, 0.4]
RUNS = [f"alpha_{alpha}" for alpha in ALPHAS]


def slow(tmp_path: Path, **student: Any) -> FakeSearch:
    return FakeSearch(tmp_path, {"alpha": ALPHAS}, num_epochs=5, student={"seconds": 0.2} | student)


def processes(fake: FakeSearch) -> list[int]:
    return [event["process"] for event in fake.events("begin")]


def start_two(fake: FakeSearch) -> "subprocess.Popen[str]":
    """A search whose first two runs have done an epoch."""
    driver = fake.start(jobs=2)
    history = [fake.folder / run / "metrics.jsonl" for run in RUNS[:2]]
    wait_until(lambda: all(path.exists() for path in history))
    return driver


def finish_quickly(fake: FakeSearch) -> int:
    """Resume the runs without their pauses, which fake_train.py does not take for a change of the experiment."""
    for path in fake.folder.glob("**/params.json"):
        params = json.loads(path.read_text())
        write(path, params | {"student": params["student"] | {"seconds": 0}})
    return fake.run()


def assert_all_done_and_no_epoch_twice(fake: FakeSearch) -> None:
    for run in RUNS:
        assert [row["epoch"] for row in fake.history(run)] == [1, 2, 3, 4, 5]
        assert fake.state(run) == "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_and_the_next_call_resumes_them(tmp_path: Path, number: signal.Signals) -> None:
    fake = slow(tmp_path)
    driver = start_two(fake)
    driver.send_signal(number)
    error = driver.communicate(timeout=10)[1]
    assert driver.returncode == 75
    assert error.endswith("stopped: 0 of 4 runs are finished; run the same command to go on\n")
    assert sorted(event["run"] for event in fake.events("stop")) == sorted(fake.begun())
    assert [fake.state(run) for run in fake.begun()] == ["stopped", "stopped"]
    assert finish_quickly(fake) == 0
    assert_all_done_and_no_epoch_twice(fake)


def test_the_teacher_can_be_stopped_too(tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": ALPHAS}, teacher="../teacher")
    teacher = json.loads((fake.folder / "params.json").read_text())
    teacher = teacher | {"teacher": None, "student": {"name": "cnn", "seconds": 10}}
    write(tmp_path / "experiments" / "teacher" / "params.json", teacher)
    driver = fake.start()
    wait_until(lambda: fake.begun() == ["teacher"])
    driver.send_signal(signal.SIGINT)
    assert (
        "the folders that the runs depend on are not trained yet; run the same command"
        in driver.communicate(timeout=10)[1]
    )
    assert driver.returncode == 75
    assert [event["run"] for event in fake.events()] == ["teacher", "teacher"]


def test_a_second_signal_kills_runs_that_do_not_stop(tmp_path: Path) -> None:
    fake = slow(tmp_path, deaf=True, seconds=30)
    driver = fake.start()
    wait_until(lambda: len(fake.begun()) == 2)
    driver.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping: 2 runs" in (fake.folder / "search.log").read_text())
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=10)
    assert driver.returncode == 75
    assert not any(is_alive(process) for process in processes(fake))


def test_runs_that_do_not_stop_are_killed_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.search.run_queue.GRACE_SECONDS", 0.2)
    fake = slow(tmp_path, deaf=True, seconds=30)

    def stop() -> None:
        wait_until(lambda: len(fake.begun()) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert fake.run() == 75
    thread.join()
    assert not any(is_alive(process) for process in processes(fake))


def test_after_kill_9_no_run_lives_on_and_the_next_call_resumes_them(tmp_path: Path) -> None:
    fake = slow(tmp_path)
    driver = start_two(fake)
    driver.kill()
    driver.communicate()
    assert finish_quickly(fake) == 0  # at once: the runs may be saving still
    assert_all_done_and_no_epoch_twice(fake)
    assert not any(is_alive(process) for process in processes(fake))
    assert sorted(fake.begun()) == sorted([*RUNS, *RUNS[:2]])


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = slow(tmp_path, seconds=0.02)
    fake.run()
    (fake.folder / "alpha_0.1" / "metrics.jsonl").unlink()
    write(fake.folder / "alpha_0.1" / "run.json", {"state": "stopped"})
    by_hand = subprocess.Popen([*fake.command, "--model_dir", str(fake.folder / "alpha_0.1")])
    wait_until(lambda: fake.state("alpha_0.1") == "running")
    capsys.readouterr()
    assert fake.run() == 0
    assert by_hand.wait() == 0
    assert f"alpha_0.1: waiting for process {by_hand.pid} on {socket.gethostname()}" in capsys.readouterr().err
    assert len(fake.history("alpha_0.1")) == 5


def test_a_second_search_in_a_folder_is_refused_and_the_first_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = slow(tmp_path)
    driver = start_two(fake)
    assert fake.run() == 2
    holder = f"another search is running in this folder, process {driver.pid} on {socket.gethostname()}"
    assert f"error: {fake.folder}: {holder}\n" in capsys.readouterr().err
    driver.send_signal(signal.SIGINT)
    driver.communicate()


def test_on_a_terminal_each_run_has_a_line_and_all_runs_one(tmp_path: Path) -> None:
    fake = slow(tmp_path, seconds=0.15)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    driver = fake.start(jobs=2, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # Linux: the other side has closed
            break
    os.close(ours)
    assert driver.wait() == 0
    text = shown.decode()
    assert "Traceback" not in text
    assert "0/4 runs" in text
    assert "|████████████████████| 4/4 runs, best 40.00 % (alpha_0.4)" in text
    assert re.search(r"alpha_0\.1 +\d+%, epoch \d/5, val_accuracy 10\.00 %", text)
    assert re.search(r"about \d+ s left", text)
    assert "alpha_0.4: finished after" in text
    assert "started" not in text
