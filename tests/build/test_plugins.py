"""Plug-ins: losses, networks and data sets from files outside the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evaluate
import search_hyperparams
import synthesize_results
import train
from model.files import read_json
from model.registry import DATASETS, LOSSES, NETS
from tests.conftest import Call, MakeFolder
from tests.small_experiments import write

LOSS = """
import torch.nn.functional as F
from retort import LOSSES, Batch, DistillLoss, Output


@LOSSES.register("plugged_mse")
class PluggedMse(DistillLoss):
    def forward(self, student, teacher, batch):
        return F.mse_loss(student.logits, teacher.logits)
"""
NET = """
from torch import nn
from retort import NETS, Output


@NETS.register
class plugged_linear(nn.Module):
    def __init__(self, num_classes: int, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.classifier = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images):
        embedding = images.flatten(1)
        return Output(self.classifier(embedding), embedding)
"""
DISTILL: dict[str, Any] = {"loss": {"plugged_mse": {}}, "teacher": "../teacher", "num_epochs": 1}


@pytest.fixture(autouse=True)
def restore_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what plug-ins registered after each test."""
    import sys

    for registry in (LOSSES, NETS, DATASETS):
        monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("retort_plugin_"):
            del sys.modules[name]


def test_a_run_with_a_loss_of_a_plugin_is_trained_and_evaluated(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    make_folder(tmp_path / "teacher", num_epochs=1)
    folder = make_folder(tmp_path / "student", plugins=["my_loss.py"], **DISTILL)
    (folder.path / "my_loss.py").write_text(LOSS)
    assert call(train.main, "--model_dir", folder.path, "--dry_run").status == 0
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert folder.read_run()["plugins"] == {"my_loss.py": hashlib.sha256(LOSS.encode()).hexdigest()}
    assert "loss_plugged_mse" in folder.read_history()[0]
    assert call(evaluate.main, "--model_dir", folder.path).status == 0


@pytest.mark.usefixtures("in_process_executor")
def test_runs_of_a_search_use_the_plugins_of_its_folder(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    make_folder(tmp_path / "teacher", num_epochs=1)
    folder = make_folder(tmp_path / "search", plugins=["my_loss.py"], **DISTILL)
    (folder.path / "my_loss.py").write_text(LOSS)
    write(folder, read_json(folder.params), {"method": "grid", "parameters": {"learning_rate": [0.01, 0.02]}})
    assert call(search_hyperparams.main, "--parent_dir", folder.path).status == 0
    child = folder.path / "learning_rate_0.01"
    assert read_json(child / "params.json")["plugins"] == ["../my_loss.py"]
    assert read_json(child / "run.json")["state"] == "finished"


def test_plugins_are_looked_up_in_the_folder_before_the_root(
    make_folder: MakeFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.build.plugins.ROOT", tmp_path)
    (tmp_path / "my_net.py").write_text(NET)
    folder = make_folder(tmp_path / "run", student={"name": "plugged_linear"}, plugins=["my_net.py"], num_epochs=1)
    assert call(train.main, "--model_dir", folder.path).status == 0
    (folder.path / "my_net.py").write_text("raise ValueError('plug-in of the folder')")
    assert "plug-in of the folder" in call(train.main, "--model_dir", folder.path, "--restart").err


def test_a_module_is_imported_from_the_root(
    make_folder: MakeFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.build.plugins.ROOT", tmp_path)
    package = tmp_path / "plugged_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(NET)
    options: dict[str, Any] = {"student": {"name": "plugged_linear"}, "plugins": ["plugged_package.nets"]}
    folder = make_folder(tmp_path / "run", num_epochs=1, **options)
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert folder.read_run()["plugins"] == {"plugged_package.nets": hashlib.sha256(NET.encode()).hexdigest()}


def test_plugins_of_a_teacher_are_not_run(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "plugged_linear"}, plugins=["my_net.py"])
    (teacher.path / "my_net.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{NET}")
    student = make_folder(tmp_path / "student", loss={"kd": {}}, teacher="../teacher", num_epochs=1)
    result = call(train.main, "--model_dir", student.path)
    assert result.status == 2
    assert f"{teacher.params}: student.name: no network is named" in result.err
    assert 'the plug-ins of this folder are not run for another one: name my_net.py in its "plugins", too' in result.err
    assert not (tmp_path / "ran").exists()


def test_a_student_that_names_the_plugin_of_its_teacher_is_trained(
    make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    teacher = make_folder(tmp_path / "teacher", student={"name": "plugged_linear"}, plugins=["my_net.py"], num_epochs=1)
    (teacher.path / "my_net.py").write_text(NET)
    student = make_folder(
        tmp_path / "student", loss={"kd": {}}, teacher="../teacher", plugins=["../teacher/my_net.py"], num_epochs=1
    )
    assert call(train.main, "--model_dir", student.path).status == 0
    assert teacher.state() == "finished"


def test_results_tables_run_no_plugins(make_folder: MakeFolder, tmp_path: Path, call: Call) -> None:
    folder = make_folder(tmp_path / "runs" / "run", plugins=["my_loss.py"])
    (folder.path / "my_loss.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    assert call(synthesize_results.main, "--parent_dir", tmp_path / "runs").status == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, 'plugins.0: no file "my_loss.py" in '),
        ("x = 1\nraise RuntimeError('broken. really')", "my_loss.py, line 2: RuntimeError: broken"),
        ("def f(:\n", "my_loss.py, line 1: SyntaxError: invalid syntax"),
        (LOSS.replace("plugged_mse", "kd"), "ValueError: the loss kd is registered already"),
    ],
    ids=["missing", "broken", "no Python", "a name that is taken"],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(
    content: str | None, message: str, make_folder: MakeFolder, tmp_path: Path, call: Call
) -> None:
    folder = make_folder(tmp_path / "run", plugins=["my_loss.py"])
    if content is not None:
        (folder.path / "my_loss.py").write_text(content)
    result = call(train.main, "--model_dir", folder.path)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not folder.run.exists()


def test_a_plugin_that_changed_since_the_run_began_is_logged(
    make_folder: MakeFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "run", student={"name": "plugged_linear"}, plugins=["my_net.py"], num_epochs=1)
    (folder.path / "my_net.py").write_text(NET)
    folder.update_run(state="stopped", plugins={"my_net.py": "digest of other content"})
    assert call(train.main, "--model_dir", folder.path).status == 0
    assert "the plug-in my_net.py changed since the run began" in folder.log.read_text()
