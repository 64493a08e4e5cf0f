"""Experiments whose teachers have random weights: for tests of a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.trainer import build_trainer
from model.config.dotted import with_values
from model.config.folder import Folder
from model.docs.all_methods import methods
from model.files import read_json
from model.home import ROOT
from model.teachers.live import LiveTeacher
from model.training.trainer import Trainer
from model.types import Batch, Normalisation, Teacher
from tests.small_experiments import write

NUM_CLASSES, BATCH_SIZE, NUM_EPOCHS = 10, 8, 2
METHODS = methods()  # values of params.json for every loss
TEACHER = {"name": "cnn", "num_channels": 6}


def write_images(path: Path) -> Path:
    """Write a .npz file for the data set `arrays`: 40 training and 10 test images of 32 x 32 pixels in 10 classes."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, size in (("train", 40), ("test", 10)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(size) % NUM_CLASSES
    np.savez(path, **arrays)
    return path


@dataclass(frozen=True)
class UntrainedExperiments:
    """Makes small experiments.

    Args:
        root: The folder of their folders.
        images: The file of their images.
    """

    root: Path
    images: Path

    @property
    def params(self) -> dict[str, Any]:
        return {
            "dataset": {"name": "arrays", "path": str(self.images), "val_size": 10},
            "student": {"name": "cnn", "num_channels": 4},
            "loss": {"ce": {}},
            "batch_size": BATCH_SIZE,
            "num_epochs": NUM_EPOCHS,
            "precision": "bfloat16",
        }

    def teacher(self, name: str = "teacher", student: dict[str, Any] = TEACHER) -> str:
        """Write the folder of a teacher; returns its path."""
        return str(write(Folder(self.root / name), self.params | {"student": student}).path)

    def make(self, device: torch.device, **values: Any) -> Experiment:
        """An experiment with these values of params.json, by their dotted paths, replaced."""
        folder = write(Folder(self.root / "run"), with_values(self.params, values))
        return Experiment(folder.path, Runtime(device=device, data_dir=self.root))

    def of_method(self, method: str, device: torch.device, **values: Any) -> Experiment:
        """An experiment with a loss, and with the teacher that it is used with."""
        teacher = METHODS[method].get("teacher", "experiments/all_methods/teacher")
        student = read_json(ROOT / teacher / "params.json")["student"]
        return self.make(device, **METHODS[method] | {"teacher": self.teacher(student=student)} | values)


def trainer_of(experiment: Experiment, teacher: Teacher | None = None) -> Trainer:
    """The trainer; with teachers in use, by default the first of them, run on every batch."""
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
