"""A run so small that it takes a tenth of a second: 5 steps an epoch, 2 epochs, 5 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.config.folder import Folder
from model.data.memory import Arrays, Augmentation, MemoryPipeline, MemorySource
from model.evaluation.metrics import metrics_of, predict
from model.losses.ce import CrossEntropy
from model.losses.objective import Objective
from model.teachers.live import LiveTeacher
from model.training.distributed import SINGLE_PROCESS, World
from model.training.parallel import DistributedTrainer, DistributedTrainStep
from model.training.step import TrainStep
from model.training.trainer import Trainer
from model.types import Normalisation, Output, Split, SplitOptions, TermOptions

CPU = torch.device("cpu")
NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
STEPS_PER_EPOCH = 5


class SmallNet(nn.Module):
    """A network with weights, batch norm and dropout."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel_size=3)
        self.bn = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(6, 5)

    def forward(self, images_NCHW: Tensor) -> Output:
        map_NCHW = self.bn(self.conv(images_NCHW)).relu()
        embedding_ND = self.dropout(map_NCHW.mean(dim=(2, 3)))
        return Output(logits=self.linear(embedding_ND), embedding=embedding_ND, maps=(map_NCHW,))


class LinearNet(nn.Module):
    """A network without dropout and batch norm: training and evaluation mode are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 5)

    def forward(self, images_NCHW: Tensor) -> Output:
        flat_ND = images_NCHW.flatten(1)
        return Output(logits=self.linear(flat_ND), embedding=flat_ND)


def seeded(net: type[nn.Module], seed: int, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net(**options)


def images_and_labels(num_images: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    labels = np.arange(num_images) % 5
    noise = np.random.default_rng(seed).integers(0, 120, (num_images, 4, 4, 3))
    return (noise + 25 * labels[:, None, None, None]).astype(np.uint8), labels


def open_data(val_size: int = 20, *, strong_view: bool = False) -> MemoryPipeline:
    (train_images, train_labels), (test_images, test_labels) = images_and_labels(100, 1), images_and_labels(30, 2)
    source = MemorySource(
        class_names=tuple("abcde"),
        image_shape=(3, 4, 4),
        normalisation=NORMALISATION,
        augmentation=Augmentation(pad=1, flip=True),
        load=lambda: Arrays(
            train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels
        ),
    )
    return source.open(SplitOptions(val_size=val_size, strong_view=strong_view), seed=0, device=CPU)


def live_teacher(net: nn.Module) -> LiveTeacher:
    return LiveTeacher(
        net, normalisation=NORMALISATION, data_normalisation=NORMALISATION, dtype=torch.float32, device=CPU
    )


def toy_trainer(path: Path, **changes: Any) -> Trainer:
    """A run at step 0 in the folder `path`, with some of its parts replaced."""
    path.mkdir(parents=True, exist_ok=True)
    student = changes.pop("student", None) or seeded(SmallNet, 0)
    data = changes.pop("data", None) or open_data()
    objective = changes.pop("objective", None) or Objective({"ce": (CrossEntropy(), TermOptions())})
    accumulate = changes.pop("accumulate", 1)
    parameters = [*student.parameters(), *objective.parameters()]

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        return metrics_of(predict(net, data.eval_batches(split, 7), dtype=torch.float32, device=CPU))

    step: dict[str, Any] = {
        "student": student,
        "teacher": changes.pop("teacher", None),
        "objective": objective,
        "seed": changes.pop("seed", 0),
        "steps_per_epoch": -(-data.steps_per_epoch(changes.get("batch_size", 16)) // accumulate),
        "accumulate": accumulate,
        "device": CPU,
        "dtype": torch.float32,
    }
    parts: dict[str, Any] = {
        "optimizer": torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        "schedule": lambda epoch: 1.0,
        "data": data,
        "evaluate": evaluate,
        "folder": Folder(path),
        "describe": {"student": {"name": "small"}},
        "batch_size": 16,
        "num_epochs": 2,
    }
    world: World = changes.pop("world", SINGLE_PROCESS)
    parts |= changes
    if world.size == 1:
        return Trainer(train_step=TrainStep(**step), **parts)
    train_step = DistributedTrainStep(**step, world=world, data=data, batch_size=parts["batch_size"])
    return DistributedTrainer(train_step=train_step, world=world, **parts)
