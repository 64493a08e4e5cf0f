"""The commands of docs/search.md with the real train.py, on clusters."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config.folder import Folder
from model.home import ROOT
from tests.conftest import MakeFolder
from tests.search.executors.clusters import SlurmCluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def parent(make_folder: MakeFolder, tmp_path: Path) -> Folder:
    folder = make_folder(tmp_path / "a search", num_epochs=1)
    (folder.path / "search.json").write_text(json.dumps({"parameters": {"learning_rate": [0.01, 0.02]}}))
    return folder


def call(parent: Folder, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the script in a directory from which this package cannot be imported."""
    command = [sys.executable, str(ROOT / "search_hyperparams.py"), "--parent_dir", str(parent.path), *options]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=300)


def assert_done(parent: Folder, done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("2 of 2 runs are finished\n")
    assert "val best" in done.stdout
    for name in ("learning_rate_0.01", "learning_rate_0.02"):
        assert Folder(parent.path / name).state() == "finished"


def test_a_search_on_slurm(slurm: SlurmCluster, parent: Folder) -> None:
    options = ("--engine", "slurm", "--time", "10", "--gpus", "0", "--sbatch", "comment=kd")
    plan = call(parent, *options, "--dry_run")
    assert "at most 2 SLURM jobs at a time, 1 core each, requeued after 10 min: " in plan.stdout
    assert not (parent.path / ".slurm").exists()
    assert_done(parent, call(parent, *options))


def test_a_search_on_ray(ray_cluster: Any, parent: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--engine", "ray", "--gpus", "0")
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_cluster.address)
        plan = call(parent, *options, "--dry_run")
    assert "2 at a time on 2 Ray nodes, 1 core each: " in plan.stdout
    assert not (parent.path / ".token").exists()
    assert_done(parent, call(parent, *options, "--address", ray_cluster.address))
