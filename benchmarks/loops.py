"""The loops to be timed: functions that take one training step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import REPOSITORY
from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer, describe
from model.config.folder import Folder
from model.config.params import parse_params
from model.files import write_json
from model.registry import NETS
from model.teachers.live import LiveTeacher
from model.training.checkpoint import save_checkpoint
from model.training.malloc import keep_freed_memory
from model.training.precision import autocast, to_device
from model.training.trainer import Trainer
from model.types import Batch, Teacher

BATCH_SIZE = 128
EPOCHS = 2  # those that teacher outputs are cached for; the loops repeat them
Step = Callable[[], Any]

COMMON: dict[str, Any] = {
    "dataset": {"name": "cifar10_mini"},
    "student": {"name": "cnn"},
    "optimizer": {"name": "adam"},
    "batch_size": BATCH_SIZE,
    "num_epochs": EPOCHS,
}


class BenchmarkRuns:
    """Data set, trainers and teachers with random weights, for runs in a temporary folder.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path, runtime: Runtime, batch_size: int = BATCH_SIZE) -> None:
        keep_freed_memory()  # as train.py does
        self.folder, self.runtime, self.batch_size = folder, runtime, batch_size
        write_json(folder / "params.json", COMMON)
        self.data = self.experiment().data
        self.batch = next(iter(self.data.train_batches(0, batch_size)))

    def experiment(self, **changes: Any) -> Experiment:
        params = parse_params({**COMMON, "batch_size": self.batch_size, **changes}, self.folder / "params.json")
        experiment = Experiment(self.folder, self.runtime, params=params)
        if hasattr(self, "data"):
            experiment.data = self.data
        return experiment

    def trainer(self, student: str = "cnn", teacher: Teacher | None = None) -> Trainer:
        # The teacher is passed to the trainer; the folder names itself as teacher only for the shapes of the output.
        loss: dict[str, Any] = {"ce": {}} if teacher is None else {"kd": {}}
        experiment = self.experiment(student={"name": student}, loss=loss, teacher=str(self.folder))
        return build_trainer(experiment, teacher)

    def live_teacher(self, network: str, *, compiled: bool) -> LiveTeacher:
        """A teacher that is run on every batch; compiled, as train.py compiles one on the images of CIFAR-10."""
        teacher = self.teacher(network, cache=False)
        assert isinstance(teacher, LiveTeacher)
        if compiled:
            teacher.compile(self.batch_size)
        return teacher

    def teacher(self, network: str, *, cache: bool) -> Teacher:
        """A teacher as train.py builds it; `cache` gives one with the outputs of all views of the epochs cached."""
        folder = Folder(self.folder / network)
        if not folder.path.exists():
            folder.path.mkdir()
            write_json(folder.params, {**COMMON, "student": {"name": network}})
            experiment = Experiment(folder.path, self.runtime)
            content = {"state_dict": experiment.student().state_dict(), **describe(experiment)}
            save_checkpoint(folder.checkpoint("best"), content)
        distillation = self.experiment(teacher={"model_dir": str(folder.path), "cache": cache}, loss={"kd": {}})
        weights = read_teacher_weights(distillation)
        teacher = build_teacher(distillation, weights)
        assert teacher is not None
        if cache:
            for epoch in range(EPOCHS):
                list(teacher.precompute(self.data, epoch))
            teacher = build_teacher(distillation, weights)  # as in a run that starts with a full cache
            assert teacher is not None
        return teacher


def all_batches(trainer: Trainer) -> Iterator[Batch]:
    """The batches of all epochs; before each, what the trainer does with the teacher."""
    for epoch in range(EPOCHS):
        if trainer.teacher is not None:
            list(trainer.teacher.precompute(trainer.data, epoch))
        yield from trainer.train_batches(epoch, 0)


def unbounded(batches: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        yield from batches()


def bare_loop(network: str, batch: Batch, dtype: torch.dtype, device: torch.device) -> Step:
    """Forward, backward and step on one fixed batch."""
    net = NETS.build(network, 10, 3).to(device)
    if dtype is torch.bfloat16:
        net = to_device(net, device)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def step() -> None:
        with autocast(dtype, device):
            logits = net(batch.images).logits
        loss = F.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def training_loop(trainer: Trainer) -> Step:
    """The trainer's step on the pipeline's batches, epoch after epoch."""
    batches = unbounded(lambda: all_batches(trainer))
    trainer.student.train()
    return lambda: trainer.take_step(next(batches))


@contextmanager
def conventional_loop(runtime: Runtime, name: str) -> Iterator[Step]:
    """A conventional training loop, in a process of its own that keeps the settings of the system's allocator.

    Args:
        name: A key of `benchmarks.conventional.LOOPS`.
    """
    command = [sys.executable, "-m", "benchmarks.conventional", name, str(runtime.data_dir), str(runtime.device)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def step() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("step\n")
            process.stdin.flush()
            process.stdout.readline()

        yield step
        process.stdin.close()
