"""Runs with a compiled teacher: which runs have one, and that they stay exact."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.errors import Stopped
from model.files import read_json
from model.teachers.compiled import CompiledNetwork
from model.training.checkpoint import load_checkpoint
from tests.commands.test_train import send_signals_at, weights
from tests.conftest import MakeFolder

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here"),
    pytest.mark.filterwarnings("default"),  # compilers warn of much that is no fault of ours
]
AT: dict[str, Any] = {"at": {}}  # reads feature maps, which are not cached


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_folder: MakeFolder, runtime: Runtime) -> Folder:
    folder = make_folder(tmp_path_factory.mktemp("compiled") / "teacher", student={"name": "resnet8"})
    Experiment(folder.path, runtime).train()
    return folder


@pytest.fixture(autouse=True)
def _every_teacher_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.build.teacher.MIN_MACS_TO_COMPILE", 0.0)


@pytest.fixture
def student(teacher: Folder, make_folder: MakeFolder, tmp_path: Path) -> Any:
    """Make a folder that learns from the teacher, with a cache of its own for each test."""
    own = Folder(shutil.copytree(teacher.path, tmp_path / "teacher"))

    def make(name: str, **changes: Any) -> Folder:
        params = {"teacher": str(own.path), "loss": {"kd": {}}, "student": {"name": "resnet8"}}
        return make_folder(tmp_path / name, **params | changes)

    return make


def cache_keys(folder: Folder) -> list[dict[str, Any]]:
    """What the outputs in the caches of a folder depend on."""
    return [read_json(file) for file in (folder.path.parent / "teacher" / "cache").glob("*/about.json")]


def compiled_in(text: str) -> bool:
    return "compiling its network" in text


def test_cold_warm_and_resumed_runs_have_the_same_weights(student: Any, runtime: Runtime) -> None:
    cold = student("cold")
    Experiment(cold.path, runtime).train()
    (key,) = cache_keys(cold)
    assert key["compiled"] is True
    warm = student("warm")
    Experiment(warm.path, runtime).train()
    assert not compiled_in(warm.log.read_text()), "no output was missing"
    assert all((weights(cold)[name] == tensor).all() for name, tensor in weights(warm).items())


def test_stopped_run_goes_on_to_the_same_weights(
    student: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, parts = student("uninterrupted", loss=AT), student("parts", loss=AT)
    Experiment(uninterrupted.path, runtime).train()
    with monkeypatch.context() as patch:
        send_signals_at(9, [signal.SIGTERM], patch)
        with pytest.raises(Stopped):
            Experiment(parts.path, runtime).train()
    assert load_checkpoint(parts.checkpoint("last"))["step"] == 9
    Experiment(parts.path, runtime).train()
    assert all((weights(uninterrupted)[name] == tensor).all() for name, tensor in weights(parts).items())


def test_teacher_that_is_run_on_every_batch_is_compiled(student: Any, runtime: Runtime) -> None:
    folder = student("live", loss=AT)
    Experiment(folder.path, runtime).train()
    assert compiled_in(folder.log.read_text())


@pytest.mark.parametrize("reason", ["small", "compile is false", "compilation fails"])
def test_outputs_of_a_teacher_that_is_not_compiled_are_cached_apart(
    reason: str, student: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {}
    if reason == "small":
        monkeypatch.setattr("model.build.teacher.MIN_MACS_TO_COMPILE", 1e13)
    elif reason == "compile is false":
        changes["compile"] = False
    else:
        monkeypatch.setattr(CompiledNetwork, "__call__", fail)
    folder = student("uncompiled", **changes)
    Experiment(folder.path, runtime).train()
    used = [key for key in cache_keys(folder) if "compiled" not in key]
    assert len(used) == 1
    assert folder.read_run()["teacher_images"]["run"] > 0
    again = student("again", **changes)
    Experiment(again.path, runtime).train()
    assert again.read_run()["teacher_images"]["run"] == 0 or reason == "compilation fails"


def fail(*_: Any) -> None:
    raise RuntimeError("no compiler")
