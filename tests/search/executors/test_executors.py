"""One suite over every executor: what the driver relies on. Those of clusters run by `make test-engines`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model.cpus import THREAD_VARIABLES
from model.search.executors import worker
from model.search.executors.base import Executor, Job, JobEnd, JobHandle
from model.search.executors.local import LocalExecutor
from tests.search.executors.clusters import PATIENCE
from tests.search.fake_search import FakeSearch, is_alive, wait_until

MakeExecutor = Callable[..., Executor]
EXECUTOR_NAMES = ["local", *(pytest.param(name, marks=pytest.mark.cluster) for name in ("ray", "slurm"))]


@pytest.fixture(params=EXECUTOR_NAMES)
def make_executor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeExecutor:
    make: MakeExecutor = request.getfixturevalue(f"on_{request.param}")
    return make


@pytest.fixture
def on_local() -> MakeExecutor:
    return partial(LocalExecutor.for_runs, device="cpu")


@pytest.fixture
def on_ray(ray_cluster: Any, tmp_path: Path) -> MakeExecutor:
    from model.search.executors.ray import RayExecutor

    return partial(RayExecutor.for_runs, search_dir=tmp_path, address=ray_cluster.address, gpus=0)


@pytest.fixture
def on_slurm(slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeExecutor:
    from model.search.executors.slurm import SlurmExecutor

    monkeypatch.setattr("model.search.executors.slurm.SQUEUE_SECONDS", 0.2)
    return partial(SlurmExecutor.for_runs, search_dir=tmp_path, time=10, gpus="0")


def python(folder: Path, program: str, *arguments: str, **options: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(folder, (sys.executable, "-IS", "-c", program, *arguments), **options)


def end_of(executor: Executor, handle: JobHandle) -> JobEnd:
    until = time.monotonic() + PATIENCE
    while (end := executor.poll(handle)) is None:
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.005)
    return end


def wait_for_log(folder: Path, text: str) -> None:
    log = folder / "stdout.log"
    wait_until(lambda: log.exists() and text in log.read_text(), PATIENCE)


IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print('ready', flush=True); "
IGNORES_SIGTERM += "end = time.monotonic() + 60\nwhile time.monotonic() < end: time.sleep(0.01)"
SAVES_ON_SIGTERM = (
    "import signal, sys, time\n"
    "def save(*_): print('saved', flush=True); sys.exit(75)\n"
    "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("status", [0, 1, 75])
def test_the_exit_status_is_reported(make_executor: MakeExecutor, tmp_path: Path, status: int) -> None:
    executor = make_executor(1)
    assert end_of(executor, executor.submit(python(tmp_path, f"import sys; sys.exit({status})"))) == JobEnd(status)


def test_a_job_that_was_killed_is_reported_with_the_signal(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert end_of(executor, executor.submit(python(tmp_path, program))) == JobEnd(-9)


def test_both_outputs_are_appended_to_the_log(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    for word in ("first", "second"):
        program = f"import sys; print('{word}', flush=True); print('error', file=sys.stderr)"
        end_of(executor, executor.submit(python(tmp_path, program)))
    assert (tmp_path / "stdout.log").read_text() == "first\nerror\nsecond\nerror\n"


def test_arguments_arrive_as_they_are(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor, arguments = make_executor(1), ["with space", "$HOME", "a;b", "'", "*"]
    folder = tmp_path / "a folder; $HOME"
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    end_of(executor, executor.submit(python(folder, program, *arguments)))
    assert json.loads((folder / "stdout.log").read_text()) == arguments


@pytest.mark.parametrize(("has_begun", "expected"), [(False, ["--restart"]), (True, [])])
def test_only_a_run_that_has_not_begun_is_restarted(
    make_executor: MakeExecutor, tmp_path: Path, has_begun: bool, expected: list[str]
) -> None:
    if has_begun:
        (tmp_path / "run.json").write_text("{}")
    executor = make_executor(1)
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    end_of(executor, executor.submit(python(tmp_path, program, options_if_new=("--restart",))))
    assert json.loads((tmp_path / "stdout.log").read_text()) == expected


def test_a_job_without_gpus_sees_none_and_has_as_many_threads_as_cores(
    make_executor: MakeExecutor, tmp_path: Path
) -> None:
    executor = make_executor(1)
    program = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), os.environ['OMP_NUM_THREADS'])"
    end_of(executor, executor.submit(python(tmp_path, program)))
    assert (tmp_path / "stdout.log").read_text() == f"'' {executor.threads_per_job}\n"


def test_jobs_can_be_submitted_until_max_jobs_are_running(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(3, jobs=2)
    handles = []
    for number in range(2):
        wait_until(executor.can_submit, PATIENCE)
        handles.append(executor.submit(python(tmp_path / str(number), SAVES_ON_SIGTERM)))
    assert not executor.can_submit()
    wait_for_log(tmp_path / "0", "ready")
    executor.kill(handles[0])
    end_of(executor, handles[0])
    assert executor.can_submit()
    executor.kill(handles[1])
    end_of(executor, handles[1])


def test_stop_lets_a_job_save(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    handle = executor.submit(python(tmp_path, SAVES_ON_SIGTERM))
    wait_for_log(tmp_path, "ready")
    executor.stop(handle)
    assert end_of(executor, handle) == JobEnd(75)
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_kill_ends_a_job_with_all_that_it_started(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    handle = executor.submit(python(tmp_path, program))
    wait_for_log(tmp_path, "\n")
    child = int((tmp_path / "stdout.log").read_text())
    executor.kill(handle)
    assert end_of(executor, handle) == JobEnd(-signal.SIGKILL)
    wait_until(lambda: not is_alive(child))


def test_a_job_that_was_stopped_can_be_killed(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    handle = executor.submit(python(tmp_path, IGNORES_SIGTERM))
    wait_for_log(tmp_path, "ready")
    executor.stop(handle)
    executor.kill(handle)
    executor.kill(handle)
    assert end_of(executor, handle) == JobEnd(-signal.SIGKILL)


def test_a_job_that_exceeds_its_time_limit_may_save_and_has_failed(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    handle = executor.submit(python(tmp_path, SAVES_ON_SIGTERM, time_limit=1.0))
    assert end_of(executor, handle) == JobEnd(75, "time limit of 1 s exceeded")
    assert (tmp_path / "stdout.log").read_text() == "ready\nsaved\n"


def test_a_job_that_hangs_is_killed_when_it_exceeds_its_time_limit(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    handle = executor.submit(python(tmp_path, IGNORES_SIGTERM, time_limit=1.0, grace_seconds=0.5))
    assert end_of(executor, handle) == JobEnd(-signal.SIGKILL, "time limit of 1 s exceeded")


def test_a_job_that_ends_in_time_has_no_error(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    assert end_of(executor, executor.submit(python(tmp_path, "pass", time_limit=30.0))) == JobEnd(0)


def test_stop_and_kill_of_a_job_that_has_just_ended_are_no_errors(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    handle = executor.submit(python(tmp_path, "import os; print(os.getpid(), flush=True)"))
    wait_for_log(tmp_path, "\n")
    process = int((tmp_path / "stdout.log").read_text())
    wait_until(lambda: not is_alive(process))
    executor.stop(handle)
    executor.kill(handle)
    assert end_of(executor, handle).status in (0, -signal.SIGTERM, -signal.SIGKILL)


def test_a_command_to_an_earlier_job_is_cleared(make_executor: MakeExecutor, tmp_path: Path) -> None:
    executor = make_executor(1)
    worker.send_command(python(tmp_path, ""), "kill")
    assert end_of(executor, executor.submit(python(tmp_path, "print('done')"))) == JobEnd(0)
    assert (tmp_path / "stdout.log").read_text() == "done\n"


def test_there_is_no_job_to_attach_to_where_none_is_running(make_executor: MakeExecutor, tmp_path: Path) -> None:
    assert make_executor(1).attach(python(tmp_path, "pass")) is None


def test_a_search_has_the_same_results_on_every_executor(make_executor: MakeExecutor, tmp_path: Path) -> None:
    search = {"method": "tpe", "run_cap": 6, "metric": {"name": "val_accuracy"}}
    parameters = {"alpha": {"min": 0.05, "max": 0.95}, "temperature": {"min": 1.0, "max": 9.0}}
    expected, fake = (FakeSearch(tmp_path / name, parameters, search=search) for name in ("local", "other"))
    assert expected.run(jobs=1) == 0
    assert fake.run(jobs=1, make_executor=make_executor) == 0
    assert fake.runs() == expected.runs()
    assert [fake.history(run)[-1]["val_accuracy"] for run in fake.runs()] == [
        expected.history(run)[-1]["val_accuracy"] for run in expected.runs()
    ]


def test_ctrl_c_lets_the_runs_save_and_the_next_call_resumes(make_executor: MakeExecutor, tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2, 0.3]}, num_epochs=3, student={"seconds": 0.3})

    def make_interrupting(num_runs: int, *, jobs: int) -> Executor:
        return Interrupting(make_executor(num_runs, jobs=jobs), lambda: len(fake.begun()) == 2)

    assert fake.run(make_executor=make_interrupting) == 75
    assert [fake.state(run) for run in fake.runs()] == ["stopped", "stopped"]
    assert fake.run(make_executor=make_executor) == 0
    assert [[row["epoch"] for row in fake.history(run)] for run in fake.runs()] == [[1, 2, 3]] * 3
    assert len(fake.begun()) == 5


class Interrupting:
    """An executor during whose work Ctrl-C is pressed, once."""

    def __init__(self, executor: Executor, when: Callable[[], bool]) -> None:
        self._executor, self._when = executor, when
        self._is_done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def poll(self, handle: JobHandle) -> JobEnd | None:
        if not self._is_done and self._when():
            self._is_done = True
            os.kill(os.getpid(), signal.SIGINT)
        return self._executor.poll(handle)


# The slots of the local executor ------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Set the number of cores, and the GPUs as CUDA_VISIBLE_DEVICES names them."""

    def set_up(cores: int, gpus: str) -> None:
        monkeypatch.setattr("model.search.executors.local.usable_cpus", lambda: cores)
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    return set_up


@pytest.mark.parametrize(
    ("cores", "gpus", "runs", "jobs", "device", "max_jobs", "threads", "devices"),
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
        (16, "", 40, None, "mps", 1, 16, [None]),
    ],
)
def test_slots_share_cores_and_gpus(
    machine: Callable[[int, str], None],
    cores: int,
    gpus: str,
    runs: int,
    jobs: int | None,
    device: str,
    max_jobs: int,
    threads: int,
    devices: list[str | None],
) -> None:
    machine(cores, gpus)
    slots = LocalExecutor.for_runs(runs, jobs=jobs, device=device).slots
    assert len(slots) == max_jobs
    assert {(slot["OMP_NUM_THREADS"], slot["MKL_NUM_THREADS"]) for slot in slots} == {(str(threads), str(threads))}
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots] == devices


@pytest.mark.parametrize(
    ("cores", "environment", "options", "max_jobs", "threads"),
    [
        (2, {"OMP_NUM_THREADS": "1"}, {"jobs": 1}, 1, "1"),
        (8, {"OMP_NUM_THREADS": "4"}, {}, 2, "4"),
        (8, {"MKL_NUM_THREADS": "4"}, {}, 2, "4"),
        (8, {"OMP_NUM_THREADS": "4"}, {"threads": 2}, 4, "2"),
        (8, {}, {"threads": 16}, 1, "16"),
    ],
)
def test_threads_of_a_run_are_those_that_were_asked_for(
    machine: Callable[[int, str], None],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    environment: dict[str, str],
    options: dict[str, int],
    max_jobs: int,
    threads: str,
) -> None:
    machine(cores, "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert LocalExecutor.for_runs(40, **options).slots == max_jobs * (  # type: ignore[arg-type]
        {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )


@pytest.mark.parametrize(
    ("gpus", "jobs", "runs", "devices"),
    [
        ("0,1", None, 40, ["0", "1", "0", "1", "0", "1"]),
        ("0,1", 4, 40, ["0", "1", "0", "1"]),
        ("0,1", 9, 40, ["0", "1", "0", "1", "0", "1"]),
        ("5", None, 2, ["5", "5"]),
    ],
)
def test_three_runs_share_a_gpu_with_runs_per_gpu_3(
    machine: Callable[[int, str], None], gpus: str, jobs: int | None, runs: int, devices: list[str]
) -> None:
    machine(16, gpus)
    slots = LocalExecutor.for_runs(runs, jobs=jobs, runs_per_gpu=3).slots
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == devices


def test_the_description_has_the_resources_of_each_run(machine: Callable[[int, str], None]) -> None:
    machine(16, "0,1,2,3")
    assert LocalExecutor.for_runs(40).describe() == "4 at a time on 4 GPUs, 4 threads each"
    machine(2, "")
    assert LocalExecutor.for_runs(40).describe() == "2 at a time, 1 thread each"


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n", ["0", "1"]),
        ("GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 3g.20gb Device 0: (UUID: MIG-1)\n", ["0"]),
        ("No devices found.\n", []),
    ],
)
def test_gpus_are_counted_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, expected: list[str]
) -> None:
    from model.search.executors.local import visible_gpus

    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{listing}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == expected


def test_without_nvidia_smi_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.search.executors.local import visible_gpus

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == []


def test_a_command_does_not_start_when_its_parent_has_ended() -> None:
    from model.search.executors.process import DIE_WITH_PARENT

    done = subprocess.run(
        [*DIE_WITH_PARENT, "1", "touch", "/nowhere/file"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "the parent process 1 has ended already\n"
