"""The options that say where runs are done: what they come to, and what is wrong with some."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.search.executors.options import add_options, engine_maker, seconds


def parsed(*options: str) -> Namespace:
    parser = ArgumentParser()
    add_options(parser)
    return parser.parse_args([*options], Namespace(device="auto", parent_dir=Path("a search")))


def asked(*options: str, **changes: Any) -> Any:
    """What sbatch would be asked for."""
    args = parsed("--engine", "slurm", "--time", "2:00:00", *options)
    vars(args).update(changes)
    return engine_maker(args).keywords["asked"]  # type: ignore[attr-defined]


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
def test_times_are_read_as_slurm_reads_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0:00:00", "two hours", "2h", "-5", "1:2:3:4"])
def test_what_is_no_time_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(f"--time_limit={text}")
    assert ended.value.code == 2
    assert f"argument --time_limit: must be minutes, or H:MM:SS, or D-HH:MM:SS, got {text}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["--runs_per_gpu", "-1"], "--runs_per_gpu must be 1 or more, got -1"),
        (["--engine", "ray", "--cpus", "0"], "--cpus must be 1 or more, got 0"),
        (["--partition", "gpu"], "--partition belongs to --engine slurm, not to local"),
        (["--gpus", "1"], "--gpus belongs to --engine ray and slurm, not to local"),
        (["--engine", "ray", "--sbatch", "mem=1G"], "--sbatch belongs to --engine slurm, not to ray"),
        (["--engine", "slurm", "--address", "head:1"], "--address belongs to --engine ray, not to slurm"),
        (["--engine", "slurm", "--runs_per_gpu", "2"], "--runs_per_gpu belongs to --engine local, not to slurm"),
        (["--engine", "ray", "--gpus", "a100:1"], "--gpus of --engine ray must be a number, got a100:1"),
        (["--engine", "slurm"], "--engine slurm needs --time"),
        (["--engine", "slurm", "--time", "2"], "--time must be 3 minutes or more, got 2"),
        (["--engine", "slurm", "--time", "9", "--gpus", "0.5"], "--gpus of --engine slurm must be a whole number"),
        (["--engine", "slurm", "--time", "9", "--sbatch", "time=8"], "--sbatch time: say --time instead"),
        (["--engine", "slurm", "--time", "9", "--sbatch", "signal=1"], "--sbatch signal is set by the search itself"),
    ],
)
def test_a_wrong_option_is_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        engine_maker(parsed(*options))


def test_runs_per_gpu_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"^--runs_per_gpu 2: no GPU is visible$"):
        engine_maker(parsed("--runs_per_gpu", "2"))(3)


@pytest.mark.parametrize("gpus", [1.5, -1.0, 2.5])
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
def test_a_ray_node_holds_what_fits_its_cores_and_gpus(
    cpus: int, gpus: float, node: dict[str, float], expected: int
) -> None:
    from model.search.executors.ray import RayResources

    assert RayResources(cpus, gpus).times_in(node) == expected


@pytest.mark.parametrize(("options", "gpus"), [((), "1"), (("--gpus", "0"), "0"), (("--gpus", "a100:2"), "a100:2")])
def test_a_job_of_slurm_gets_a_gpu_unless_told_otherwise(options: tuple[str, ...], gpus: str) -> None:
    assert asked(*options).gpus == gpus
    assert asked(*options).parameters()["additional_parameters"].get("gpus-per-node", "0") == gpus


def test_a_job_of_slurm_on_the_cpu_gets_no_gpu() -> None:
    assert asked(device="cpu").gpus == "0"


def test_any_option_of_sbatch_is_passed_on() -> None:
    flags = asked("--sbatch", "mem=16G", "--sbatch=--exclusive", "--sbatch", "comment=a=b").parameters()
    assert flags["additional_parameters"] == {
        "requeue": True,
        "gpus-per-node": "1",
        "mem": "16G",
        "exclusive": True,
        "comment": "a=b",
    }


@pytest.mark.parametrize(("minutes", "notice"), [(3, 60), (4, 80), (6, 120), (600, 120)])
def test_a_job_is_told_before_its_time_is_over(minutes: int, notice: int) -> None:
    assert asked("--time", str(minutes)).parameters()["signal_delay_s"] == notice
    assert asked("--time", str(minutes)).parameters()["time"] == minutes


@pytest.mark.parametrize(
    ("engine", "package", "command"),
    [("ray", "ray", 'pip install "ray>=2.58,<3"'), ("slurm", "submitit", 'pip install "submitit>=1.5.3,<2"')],
)
def test_without_its_package_an_engine_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, engine: str, package: str, command: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    options = ["--time", "60"] if engine == "slurm" else []
    with pytest.raises(UserError) as raised:
        engine_maker(parsed("--engine", engine, *options))(3)
    assert str(raised.value).endswith(f": {command}")
    assert "\n" not in str(raised.value)


def test_the_packages_of_the_engines_are_those_that_the_messages_name() -> None:
    from model.home import ROOT
    from model.search.executors import ray, slurm_commands

    listed = (ROOT / "requirements-engines.txt").read_text().split()
    assert [f'pip install "{each}"' for each in listed] == [ray.INSTALL, slurm_commands.INSTALL]
