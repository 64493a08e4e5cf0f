"""Fixtures: fake devices, and experiments whose networks are real until they are moved to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from model.build import experiment as experiment_module
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.trainer import build_trainer
from model.config.dotted import with_values
from model.config.folder import Folder
from model.losses.objective import Objective
from model.teachers.live import LiveTeacher
from model.training.trainer import Trainer
from model.types import Batch, Normalisation, Teacher
from tests.fake_device.fake_device import FakeDevice, fake_device, with_real_tensors
from tests.small_experiments import write

NUM_CLASSES = 10
EXPERIMENT: dict[str, Any] = {
    "student": {"name": "cnn", "num_channels": 4},
    "loss": {"ce": {}},
    "batch_size": 8,
    "num_epochs": 2,
    "precision": "bfloat16",
}


@pytest.fixture
def gpu() -> Iterator[FakeDevice]:
    """The strictest device: what passes on it passes on CUDA and, as far as that is known here, on MPS."""
    with fake_device(has_float64=False) as device:
        yield device


@pytest.fixture(params=["cuda", "without float64"])
def device(request: pytest.FixtureRequest) -> Iterator[FakeDevice]:
    """For code that uses float64 where the device has it."""
    with fake_device(has_float64=request.param == "cuda") as device:
        yield device


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz file for the data set `arrays`: 40 training and 10 test images of 32 x 32 pixels in 10 classes."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    arrays: dict[str, Any] = {}
    for split, size in (("train", 40), ("test", 10)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(size) % NUM_CLASSES
    np.savez(path, **arrays)
    return path


class MakeExperiment(Protocol):
    """An experiment on a fake device, with these values of params.json replaced."""

    def __call__(self, device: FakeDevice, **changes: Any) -> Experiment: ...


@pytest.fixture
def make_experiment(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> MakeExperiment:
    # As in a real run, these make tensors on the CPU and on the meta device, which are moved or only read for shapes.
    for name in ("build_network", "output_shapes", "build_loss_context"):
        monkeypatch.setattr(experiment_module, name, with_real_tensors(getattr(experiment_module, name)))
    monkeypatch.setattr(Objective, "prepare", with_real_tensors(Objective.prepare))

    def make(device: FakeDevice, **changes: Any) -> Experiment:
        dataset = {"name": "arrays", "path": str(images), "val_size": 10}
        folder = write(Folder(tmp_path / "run"), with_values(EXPERIMENT | {"dataset": dataset}, changes))
        experiment = Experiment(folder.path, Runtime(device=device.device, data_dir=tmp_path))
        _ = experiment.data  # on the device
        return experiment

    return make


class MakeTeacher(Protocol):
    """Write a teacher's folder, which is not trained; returns its path."""

    def __call__(self, name: str = "teacher", *, student: dict[str, Any] = ...) -> str: ...


@pytest.fixture
def make_teacher(tmp_path: Path, images: Path) -> MakeTeacher:
    def make(name: str = "teacher", *, student: dict[str, Any] = {"name": "cnn", "num_channels": 6}) -> str:  # noqa: B006
        dataset = {"name": "arrays", "path": str(images), "val_size": 10}
        folder = write(Folder(tmp_path / name), EXPERIMENT | {"dataset": dataset, "student": student})
        return str(folder.path)

    return make


def trainer_of(experiment: Experiment, teacher: Teacher | None = None) -> Trainer:
    """The trainer; with teachers in use, by default the first of them with random weights, run on every batch."""
    if teacher is None and experiment.teachers_in_use:
        teacher = live_teacher(experiment, experiment.teachers_in_use[0])
    return build_trainer(experiment, teacher)


def live_teacher(experiment: Experiment, folder: Experiment, normalisation: Normalisation | None = None) -> LiveTeacher:
    return LiveTeacher(
        folder.network(),
        normalisation=normalisation or folder.source.normalisation,
        data_normalisation=experiment.source.normalisation,
        dtype=experiment.dtype,
        device=experiment.runtime.device,
    )


def first_batch(trainer: Trainer) -> Batch:
    return next(iter(trainer.train_batches(0, 0)))
