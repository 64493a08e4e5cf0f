"""One suite over every engine: what the driver relies on."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.search.engine import Engine, Handle, Job
from model.search.local import LocalEngine
from tests.search.fake_search import is_alive, wait_until

ENGINES = [LocalEngine.for_runs]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    return request.param  # type: ignore[no-any-return]


def python(folder: Path, program: str, *arguments: str) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(folder, (sys.executable, "-IS", "-c", program, *arguments))


def status_of(engine: Engine, handle: Handle) -> int:
    end = time.monotonic() + 10
    while (status := engine.poll(handle)) is None:
        assert time.monotonic() < end, "the job does not end"
        time.sleep(0.005)
    return status


@pytest.mark.parametrize("status", [0, 1, 75])
def test_the_exit_status_is_told(make_engine: Callable[..., Engine], tmp_path: Path, status: int) -> None:
    engine = make_engine(1)
    assert status_of(engine, engine.submit(python(tmp_path, f"import sys; sys.exit({status})"))) == status


def test_both_outputs_are_appended_to_the_log(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make_engine(1)
    for word in ("first", "second"):
        program = f"import sys; print('{word}', flush=True); print('error', file=sys.stderr)"
        status_of(engine, engine.submit(python(tmp_path, program)))
    assert (tmp_path / "stdout.log").read_text() == "first\nerror\nsecond\nerror\n"


def test_arguments_arrive_as_they_are(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine, arguments = make_engine(1), ["with space", "$HOME", "a;b", "'", "*"]
    folder = tmp_path / "a folder; $HOME"
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    status_of(engine, engine.submit(python(folder, program, *arguments)))
    assert json.loads((folder / "stdout.log").read_text()) == arguments


def test_there_is_room_until_all_slots_are_taken(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make_engine(2, jobs=2)
    handles = []
    for number in range(2):
        assert engine.has_room()
        handles.append(engine.submit(python(tmp_path / str(number), "import time; time.sleep(30)")))
    assert not engine.has_room()
    engine.kill(handles[0])
    status_of(engine, handles[0])
    assert engine.has_room()
    engine.kill(handles[1])
    status_of(engine, handles[1])


def test_stop_lets_a_job_save(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make_engine(1)
    program = (
        "import signal, sys, time\n"
        "def save(*_): print('saved', flush=True); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(30)"
    )
    handle = engine.submit(python(tmp_path, program))
    wait_until(lambda: "ready" in (tmp_path / "stdout.log").read_text())
    engine.stop(handle)
    assert status_of(engine, handle) == 75
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_kill_ends_a_job_with_all_that_it_started(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make_engine(1)
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])\n"
        "print(child.pid, flush=True); time.sleep(30)"
    )
    handle = engine.submit(python(tmp_path, program))
    wait_until(lambda: (tmp_path / "stdout.log").read_text().endswith("\n"))
    child = int((tmp_path / "stdout.log").read_text())
    engine.kill(handle)
    assert status_of(engine, handle) == -signal.SIGKILL
    wait_until(lambda: not is_alive(child))


def test_stop_and_kill_of_a_job_that_has_just_ended_are_no_errors(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine(1)
    handle = engine.submit(python(tmp_path, "pass"))
    wait_until(lambda: not is_alive(int(handle)))
    engine.stop(handle)
    engine.kill(handle)
    assert engine.poll(handle) == 0


# The local engine's slots -------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """A machine of so many cores and GPUs (as CUDA_VISIBLE_DEVICES names them)."""

    def be(cores: int, gpus: str) -> None:
        monkeypatch.setattr("model.search.local.num_cores", lambda: cores)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    return be


@pytest.mark.parametrize(
    ("cores", "gpus", "runs", "jobs", "device", "at_once", "threads", "devices"),
    [
        (8, "", 40, None, "auto", 8, 1, [None] * 8),
        (8, "", 3, None, "auto", 3, 2, [None] * 3),
        (8, "", 40, 2, "auto", 2, 4, [None] * 2),
        (2, "", 40, 3, "auto", 3, 1, [None] * 3),
        (8, "", 0, None, "auto", 1, 8, [None]),
        (16, "0,1,2,3", 40, None, "auto", 4, 4, ["0", "1", "2", "3"]),
        (16, "2,5", 40, None, "cuda", 2, 8, ["2", "5"]),
        (16, "0,1", 40, 4, "auto", 4, 4, ["0", "1", "0", "1"]),
        (16, "0,1", 1, None, "auto", 1, 16, ["0"]),
        (16, "0,1", 40, None, "cpu", 16, 1, [""] * 16),
        (16, "", 40, None, "cuda", 1, 16, [None]),
    ],
)
def test_cores_and_gpus_are_shared_out(
    machine: Callable[[int, str], None],
    cores: int,
    gpus: str,
    runs: int,
    jobs: int | None,
    device: str,
    at_once: int,
    threads: int,
    devices: list[str | None],
) -> None:
    machine(cores, gpus)
    slots = LocalEngine.for_runs(runs, jobs=jobs, device=device).slots
    assert len(slots) == at_once
    assert {(slot["OMP_NUM_THREADS"], slot["MKL_NUM_THREADS"]) for slot in slots} == {(str(threads), str(threads))}
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots] == devices


def test_the_engine_says_what_each_run_gets(machine: Callable[[int, str], None]) -> None:
    machine(16, "0,1,2,3")
    assert LocalEngine.for_runs(40).describe() == "4 at once on 4 GPUs, 4 threads each"
    machine(2, "")
    assert LocalEngine.for_runs(40).describe() == "2 at once, 1 thread each"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n", ["0", "1"]),
        ("GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 3g.20gb Device 0: (UUID: MIG-1)\n", ["0"]),
        ("No devices found.\n", []),
    ],
)
def test_gpus_are_counted_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, expected: list[str]
) -> None:
    from model.search.local import visible_gpus

    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == expected


def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.search.local import visible_gpus

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == []


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_counts_as_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    from model.search import local

    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(local, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert local.num_cores() == expected


def test_a_job_is_not_begun_for_a_driver_that_is_gone() -> None:
    from model.search.local import TIED

    done = subprocess.run([*TIED, "1", "touch", "/nowhere/file"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "process 1 ended before this one began\n"
