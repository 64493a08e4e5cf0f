"""Fixtures: a data set that is learnt in seconds, folders that train on it, and scripts run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest
import torch

from model.build.runtime import Runtime
from model.cli import run_script
from model.config.folder import Folder
from model.evaluation import latency
from model.registry import EXECUTORS
from tests.small_experiments import InProcessExecutor, SmallExperiments, make_small_experiments

NUM_CLASSES = 10


class MakeFolder(Protocol):
    """Write a folder with a params.json: the tiny experiment with these keys replaced."""

    def __call__(self, path: Path, **changes: Any) -> Folder: ...


class ScriptResult(NamedTuple):
    """Exit status and output of a script."""

    status: int
    out: str
    err: str


class Call(Protocol):
    """Run a script's main function with these arguments, in this process."""

    def __call__(self, main: Callable[[], int], *arguments: object) -> ScriptResult: ...


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: with batches this small more threads are slower, and the rounding of sums depends on their number."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """Every run ends with a measurement of its network's latency, which need not be accurate in tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "LATENCY_SECONDS", 0.002)
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz file for the data set `arrays`: 240 training and 60 test images of 8 x 8 pixels in 10 classes."""
    generator = np.random.default_rng(0)
    patterns = generator.uniform(60, 195, (NUM_CLASSES, 8, 8, 3))

    def draw(num_images: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        labels = np.arange(num_images) % NUM_CLASSES
        noisy = patterns[labels] + generator.normal(0, 60, (num_images, 8, 8, 3))
        return noisy.clip(0, 255).astype(np.uint8), labels

    (train_images, train_labels), (test_images, test_labels) = draw(240), draw(60)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(
        path, train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels
    )
    return path


@pytest.fixture(scope="session")
def make_folder(tiny_data: Path) -> MakeFolder:
    def make(path: Path, *, strong_view: bool = False, **changes: Any) -> Folder:
        dataset = {"name": "arrays", "path": str(tiny_data), "val_size": 40, "pad": 1, "strong_view": strong_view}
        params = {
            "dataset": dataset,
            "student": {"name": "cnn", "num_channels": 4, "dropout": 0.2},
            "optimizer": {"name": "adam", "learning_rate": 0.01},
            "batch_size": 16,
            "num_epochs": 2,
            "precision": "float32",
        }
        path.mkdir(parents=True, exist_ok=True)
        (path / "params.json").write_text(json.dumps(params | changes, indent=2), encoding="utf-8")
        return Folder(path)

    return make


@pytest.fixture(scope="session")
def runtime(tiny_data: Path) -> Runtime:
    return Runtime(device=torch.device("cpu"), data_dir=tiny_data.parent)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(main: Callable[[], int], *arguments: object) -> ScriptResult:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            run_script(main)
        return ScriptResult(int(exit_info.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def small_experiments(tmp_path_factory: pytest.TempPathFactory) -> SmallExperiments:
    return make_small_experiments(tmp_path_factory.mktemp("small"))


@pytest.fixture
def in_process_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS._functions, "local", InProcessExecutor)
