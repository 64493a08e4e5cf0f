"""The package as `pip install .` installs it: one wheel, one package `retort`, one command, outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.files import read_json
from model.home import ROOT

PLUGIN = """
from retort import LOSSES, Batch, DistillLoss, Output

@LOSSES.register("mean_logit")
class MeanLogit(DistillLoss):
    def forward(self, student: Output, teacher: Output, batch: Batch):
        return (student.logits.mean() - teacher.logits.mean()).square()
"""
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt", "model")
NOT_INSTALLED = ("train.py", "evaluate.py", "search_hyperparams.py", "synthesize_results.py", "retort.py", "tests")


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the package, and a folder to work in.

    Args:
        home: Holds a copy of some shipped experiments.
        added: What the installation added to site-packages.
    """

    bin: Path
    home: Path
    added: set[str]

    def run(self, *command: object, status: int = 0, **environment: str) -> str:
        """What a command of the environment prints, started in `home`."""
        passed = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RETORT"))}
        done = subprocess.run(
            [str(self.bin / str(command[0])), *map(str, command[1:])],
            cwd=self.home,
            env=passed | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr


def pip(python: str | Path, *arguments: object) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as building writes into the folder that it builds from."""
    root = tmp_path_factory.mktemp("sources")
    for name in (*SOURCES, *NOT_INSTALLED):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, root / name, ignore=ignored) if source.is_dir() else shutil.copy(source, root / name)
    wheels = tmp_path_factory.mktemp("wheels")
    pip(sys.executable, "wheel", root, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", wheels)
    [wheel] = wheels.iterdir()
    return wheel


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    root = tmp_path_factory.mktemp("installed")
    venv.create(root / "venv", with_pip=True)
    bin = root / "venv" / "bin"
    command = [str(bin / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    # torch and all else that the package needs is imported from the environment of the tests.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies))
    before = {path.name for path in site_packages.iterdir()}
    pip(bin / "python", "install", "--no-deps", "--no-index", wheel)
    added = {path.name for path in site_packages.iterdir()} - before
    home = root / "home"
    copy_quickstart(home)
    return Installation(bin, home, added)


def copy_quickstart(home: Path) -> None:
    """The quickstart's folders, made small: a teacher, and a student with a loss of its own and a search."""
    student = {"loss": {"kd": {"alpha": 0.9}, "mean_logit": {}}, "plugins": ["my_loss.py"]}
    for name, changes in {"teacher": {}, "student": student}.items():
        folder = home / "experiments" / "quickstart" / name
        folder.mkdir(parents=True)
        params: dict[str, Any] = read_json(ROOT / "experiments" / "quickstart" / name / "params.json")
        params["dataset"] = {"name": "cifar10_mini", "train_fraction": 0.1, "val_size": 100}
        params["student"] = {"name": "cnn", "num_channels": 2}
        (folder / "params.json").write_text(json.dumps(params | changes | {"num_epochs": 1}))
    search = {"method": "grid", "parameters": {"alpha": {"values": [0.1, 0.5]}}}
    (home / "experiments" / "quickstart" / "student" / "search.json").write_text(json.dumps(search))
    (home / "my_loss.py").write_text(PLUGIN)


def test_the_wheel_holds_all_of_the_package_but_what_writes_the_docs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path.relative_to(ROOT / "model") for path in (ROOT / "model").rglob("*") if path.is_file()]
    expected = {f"retort/{path}" for path in files if path.parts[0] != "docs" and "__pycache__" not in path.parts}
    assert names == expected
    assert {"retort/py.typed", "retort/data/cifar10_mini/train_labels.npy"} < names


def test_one_package_is_installed(installation: Installation) -> None:
    assert installation.added == {"retort", "retort_kd-0.1.0.dist-info"}


def test_the_installed_package_is_not_importable_under_the_names_of_the_repository(installation: Installation) -> None:
    names = ("model", "utils", "tests", "train", "evaluate", "search_hyperparams", "synthesize_results")
    program = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    assert installation.run("python", "-c", program) == "[]\n"


def test_the_commands_run_one_after_the_other(installation: Installation) -> None:
    student = "experiments/quickstart/student"
    installation.run("retort", "train", "--model_dir", student, "--device", "cpu")
    run = read_json(installation.home / student / "run.json")
    assert (run["state"], list(run["plugins"]), run["git_commit"]) == ("finished", ["my_loss.py"], None)

    assert "| airplane" in installation.run("retort", "evaluate", "--model_dir", student, "--device", "cpu")

    printed = installation.run("retort", "search", "--parent_dir", student, "--device", "cpu", "--jobs", 1)
    assert printed.count("| alpha_0.") == 2

    table = installation.run("retort", "results", "--parent_dir", "experiments")
    names = ("student", "student/alpha_0.1", "student/alpha_0.5", "teacher")
    assert [name for name in names if f"| quickstart/{name} " in table] == [*names]

    program = (
        "from retort import Experiment, load, results;"
        f"print(Experiment('{student}').name, load('{student}').class_names[1], len(results('experiments')))"
    )
    assert installation.run("python", "-c", program) == f"{student} automobile 4\n"


def test_a_mistake_is_one_line_with_exit_status_2(installation: Installation) -> None:
    message = installation.run("retort", "train", "--model_dir", "experiments/nowhere", status=2)
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_retort_home_takes_the_place_of_the_working_directory(installation: Installation, tmp_path: Path) -> None:
    program = "from retort.home import ROOT; print(ROOT)"
    assert installation.run("python", "-c", program) == f"{installation.home}\n"
    assert installation.run("python", "-c", program, RETORT_HOME=str(tmp_path)) == f"{tmp_path}\n"
