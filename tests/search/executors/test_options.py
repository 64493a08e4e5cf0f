"""The command-line options of the executors: how they are parsed, their errors, and an executor that is new."""

import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.registry import EXECUTORS
from model.search.executors.base import Executor, Job, JobEnd, JobHandle
from model.search.executors.options import ExecutorOption, add_options, duration, executor_factory, positive_int
from model.search.executors.slurm_commands import SlurmOptions
from tests.search.fake_search import FakeSearch


def parse(*options: str, device: str = "auto") -> Namespace:
    parser = ArgumentParser()
    add_options(parser)
    return parser.parse_args([*options], Namespace(device=device, parent_dir=Path("a search")))


@pytest.fixture
def login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with submitit and SLURM's commands, as long as neither is used."""
    monkeypatch.setattr("model.search.executors.slurm.import_submitit", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda command: f"/usr/bin/{command}")


def slurm_options(*options: str, device: str = "auto") -> SlurmOptions:
    """The options of a job, from those of the command line."""
    args = parse("--engine", "slurm", "--time", "2:00:00", *options, device=device)
    executor: Any = executor_factory(args)(1)
    parsed: SlurmOptions = executor.options
    return parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("4:00:00", 14400),
        ("2-0", 172800),
        ("1-12", 129600),
        ("1-00:30", 88200),
        ("1-00:00:05", 86405),
    ],
)
def test_durations_have_the_notation_of_slurm(text: str, expected: float) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0:00:00", "two hours", "2h", "-5", "1:2:3:4"])
def test_a_wrong_duration_is_an_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"--time_limit={text}")
    assert ended.value.code == 2
    assert f"argument --time_limit: must be minutes, or H:MM:SS, or D-HH:MM:SS, got {text}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs must be a whole number, 1 or more, got 0"),
        (["--jobs", "many"], "--jobs must be a whole number, 1 or more, got many"),
        (["--runs_per_gpu", "-1"], "--runs_per_gpu must be a whole number, 1 or more, got -1"),
        (["--engine", "ray", "--cpus", "0"], "--cpus must be a whole number, 1 or more, got 0"),
        (["--partition", "gpu"], "--partition belongs to --engine slurm, not to local"),
        (["--gpus", "1"], "--gpus belongs to --engine ray and slurm, not to local"),
        (["--engine", "ray", "--sbatch", "mem=1G"], "--sbatch belongs to --engine slurm, not to ray"),
        (["--engine", "slurm", "--address", "head:1"], "--address belongs to --engine ray, not to slurm"),
        (["--engine", "slurm", "--runs_per_gpu", "2"], "--runs_per_gpu belongs to --engine local, not to slurm"),
        (["--engine", "ray", "--gpus", "a100:1"], "--gpus of --engine ray must be a number, got a100:1"),
        (["--engine", "slurm"], "--engine slurm needs --time: time limit of one job"),
        (["--engine", "slurm", "--time", "2h"], "--time must be minutes, or H:MM:SS, or D-HH:MM:SS, got 2h"),
        (["--engine", "slurm", "--time", "2"], "--time must be 3 minutes or more, got 2"),
        (["--engine", "slurm", "--time", "9", "--gpus", "0.5"], "--gpus of --engine slurm must be a whole number"),
        (["--engine", "slurm", "--time", "9", "--sbatch", "time=8"], "--sbatch time: use --time instead"),
        (["--engine", "slurm", "--time", "9", "--sbatch", "signal=1"], "--sbatch signal is set by the search itself"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        executor_factory(parse(*options))


def test_runs_per_gpu_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"^--runs_per_gpu 2: no GPU is visible$"):
        executor_factory(parse("--runs_per_gpu", "2"))(3)


@pytest.mark.parametrize("gpus", [1.5, -1.0, 2.5, float("nan"), float("inf")])
def test_more_than_one_gpu_of_ray_must_be_whole(gpus: float) -> None:
    from model.search.executors.ray import RayResources

    with pytest.raises(UserError, match=f"must be a part of one GPU or a whole number, got {gpus:g}"):
        RayResources(1, gpus)


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "expected"),
    [
        (1, 0.0, {"CPU": 4.0}, 4),
        (2, 0.0, {"CPU": 5.0, "GPU": 1.0}, 2),
        (1, 0.5, {"CPU": 16.0, "GPU": 2.0}, 4),
        (1, 0.1, {"CPU": 16.0, "GPU": 1.0}, 10),
        (4, 1.0, {"CPU": 16.0, "GPU": 8.0}, 4),
        (1, 1.0, {"CPU": 16.0}, 0),
        (1, 2.0, {"CPU": 16.0, "GPU": 5.0}, 2),
    ],
)
def test_a_ray_node_holds_the_runs_that_fit_its_cores_and_gpus(
    cpus: int, gpus: float, node: dict[str, float], expected: int
) -> None:
    from model.search.executors.ray import RayResources

    assert RayResources(cpus, gpus).runs_per_node(node) == expected


@pytest.mark.usefixtures("login_node")
@pytest.mark.parametrize(("options", "gpus"), [((), "1"), (("--gpus", "0"), "0"), (("--gpus", "a100:2"), "a100:2")])
def test_a_slurm_job_gets_a_gpu_by_default(options: tuple[str, ...], gpus: str) -> None:
    job_options = slurm_options(*options)
    assert job_options.gpus == gpus
    assert job_options.submitit_parameters()["additional_parameters"].get("gpus-per-node", "0") == gpus


@pytest.mark.usefixtures("login_node")
def test_a_slurm_job_on_the_cpu_gets_no_gpu() -> None:
    assert slurm_options(device="cpu").gpus == "0"


@pytest.mark.usefixtures("login_node")
def test_any_option_of_sbatch_is_passed_on() -> None:
    job_options = slurm_options("--sbatch", "mem=16G", "--sbatch=--exclusive", "--sbatch", "comment=a=b")
    assert job_options.submitit_parameters()["additional_parameters"] == {
        "requeue": True,
        "gpus-per-node": "1",
        "mem": "16G",
        "exclusive": True,
        "comment": "a=b",
    }


@pytest.mark.usefixtures("login_node")
@pytest.mark.parametrize(("minutes", "signal_delay"), [(3, 60), (4, 80), (6, 120), (600, 120)])
def test_a_job_gets_a_signal_before_its_time_limit(minutes: int, signal_delay: int) -> None:
    parameters = slurm_options("--time", str(minutes)).submitit_parameters()
    assert parameters["signal_delay_s"] == signal_delay
    assert parameters["time"] == minutes


@pytest.mark.parametrize(
    ("engine", "package", "command"),
    [("ray", "ray", 'pip install "ray>=2.58,<3"'), ("slurm", "submitit", 'pip install "submitit>=1.5.3,<2"')],
)
def test_a_missing_package_is_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, engine: str, package: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    options = ["--time", "60"] if engine == "slurm" else []
    with pytest.raises(UserError) as raised:
        executor_factory(parse("--engine", engine, *options))(3)
    assert str(raised.value).endswith(f": {command}")
    assert "\n" not in str(raised.value)


def test_the_packages_in_the_messages_are_those_of_the_requirements() -> None:
    from model.home import ROOT
    from model.search.executors import ray, slurm_commands

    requirements = (ROOT / "requirements-engines.txt").read_text().split()
    assert [f'pip install "{requirement}"' for requirement in requirements] == [ray.INSTALL, slurm_commands.INSTALL]


# An executor that is new ---------------------------------------------------------------------------------------------


class ToyExecutor:
    """Runs a job within `submit`.

    Args:
        events: Names of the runs, each with the value of `--label`.
    """

    OPTIONS = (
        ExecutorOption("jobs", positive_int, "runs at a time"),
        ExecutorOption("label", str, "noted with each run", is_required=True),
    )
    events: list[tuple[str, str]] = []

    def __init__(self, label: str) -> None:
        self.label = label
        self.max_jobs = self.threads_per_job = 1
        self._ends: dict[JobHandle, JobEnd] = {}

    @classmethod
    def for_runs(cls, num_runs: int, *, search_dir: Path, device: str, label: str, jobs: int | None = None) -> Executor:
        return cls(label)

    def describe(self) -> str:
        return "one at a time"

    def can_submit(self) -> bool:
        return not self._ends

    def submit(self, job: Job) -> JobHandle:
        self.events.append((job.folder.name, self.label))
        handle = JobHandle(job.folder.name)
        self._ends[handle] = JobEnd(subprocess.run(job.argv(), check=False).returncode)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None

    def poll(self, handle: JobHandle) -> JobEnd | None:
        return self._ends.pop(handle)

    def stop(self, handle: JobHandle) -> None: ...

    def kill(self, handle: JobHandle) -> None: ...


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[ToyExecutor]:
    """The registered toy; the registry is as before afterwards."""
    monkeypatch.setattr(EXECUTORS, "_functions", {**EXECUTORS._functions})
    monkeypatch.setattr(ToyExecutor, "events", [])
    EXECUTORS.register("toy")(ToyExecutor)
    return ToyExecutor


def test_a_registered_executor_does_the_runs_of_a_search(tmp_path: Path, toy: type[ToyExecutor]) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]})
    make_executor = executor_factory(parse("--engine", "toy", "--label", "first"))
    assert fake.run(make_executor=lambda num_runs, jobs: make_executor(num_runs)) == 0
    assert toy.events == [("alpha_0.1", "first"), ("alpha_0.2", "first")]
    assert [fake.state(run) for run in fake.runs()] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "toy"], "--engine toy needs --label: noted with each run"),
        (["--engine", "toy", "--label", "x", "--jobs", "0"], "--jobs must be a whole number, 1 or more, got 0"),
        (["--engine", "toy", "--label", "x", "--cpus", "1"], "--cpus belongs to --engine ray and slurm, not to toy"),
        (["--label", "x"], "--label belongs to --engine toy, not to local"),
    ],
)
def test_the_options_of_a_registered_executor_are_checked(
    toy: type[ToyExecutor], options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        executor_factory(parse(*options))


def test_the_help_names_the_executors_of_an_option(toy: type[ToyExecutor], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--engine {local,ray,slurm,toy}" in shown
    assert "--cpus N ray, slurm: CPU cores per run (default: 1)" in shown
    assert "--label LABEL toy: noted with each run" in shown
    assert "; toy: runs at a time" in shown
