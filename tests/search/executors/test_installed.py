"""Jobs find this package on a node under both of its names: `model` in a checkout, `retort` once it is installed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.home import ROOT
from tests.search.executors.clusters import PATIENCE, SlurmCluster


@pytest.fixture(params=["model", "retort"])
def package(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def parent(package: str, tmp_path: Path) -> Path:
    """The folder that holds the package."""
    if package == "model":
        return ROOT
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    (site_packages / package).symlink_to(ROOT / "model")
    return site_packages


def run_program(parent: Path, program: str, *arguments: object, **environment: str) -> str:
    """What a program prints that imports the package from its parent folder."""
    passed = {name: os.environ[name] for name in ("PATH", "SLURM_CONF", "RAY_AUTH_MODE") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd="/",
        env=passed | {"PYTHONPATH": str(parent)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_slurm_job_has_the_packages_folder_in_its_pythonpath(package: str, parent: Path) -> None:
    program = (
        f"from {package}.search.executors.slurm_commands import SlurmOptions;"
        "print(SlurmOptions(minutes=10).submitit_parameters()['setup'][0])"
    )
    export = run_program(parent, program).strip()
    command = ["bash", "-c", f"{export}; echo $PYTHONPATH"]
    for before, expected in ((None, f"{parent}\n"), ("/some/where", f"{parent}:/some/where\n")):
        environment = {"PYTHONPATH": before} if before else {}
        assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == expected


def test_a_function_for_ray_imports_the_package_where_it_is_not_in_sys_path(
    package: str, parent: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path;"
        f"from {package}.search.executors.ray import sent_by_name;"
        f"from {package}.search.executors.worker import read_token;"
        "call = sent_by_name(read_token); parent, token = sys.argv[1:];"
        f"ours = [name for name in sys.modules if name.partition('.')[0] == '{package}'];"
        "[sys.modules.pop(name) for name in ours]; sys.path.remove(parent);"
        "print(call(Path(token)), call.__closure__ is not None, sys.path[0] == parent)"
    )
    (tmp_path / "token").write_text("abc")
    assert run_program(parent, program, parent, tmp_path / "token") == "abc True True\n"


RUN_JOB = """
import sys, time
from pathlib import Path
from {package}.search.executors.base import Job
from {package}.search.executors.{module} import {executor}

folder = Path(sys.argv[1])
executor = {executor}.for_runs(1, search_dir=folder, {options})
while not executor.can_submit():
    time.sleep(0.1)
handle = executor.submit(Job(folder, (sys.executable, "-IS", "-c", "print('done'); raise SystemExit(3)")))
while (end := executor.poll(handle)) is None:
    time.sleep(0.1)
print(tuple(end))
"""


def run_job(package: str, parent: Path, folder: Path, module: str, executor: str, options: str) -> None:
    folder.mkdir()
    program = RUN_JOB.format(package=package, module=module, executor=executor, options=options)
    assert run_program(parent, program, folder) == "(3, None)\n"
    assert (folder / "stdout.log").read_text() == "done\n"


@pytest.mark.cluster
def test_slurm_runs_a_job(slurm: SlurmCluster, package: str, parent: Path, tmp_path: Path) -> None:
    run_job(package, parent, tmp_path / "run", "slurm", "SlurmExecutor", "time=10, gpus='0'")


@pytest.mark.cluster
def test_ray_runs_a_job(ray_cluster: Any, package: str, parent: Path, tmp_path: Path) -> None:
    run_job(package, parent, tmp_path / "run", "ray", "RayExecutor", f"gpus=0, address={ray_cluster.address!r}")
