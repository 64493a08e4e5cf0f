"""The loops that are timed: each is a function that does one step on 128 images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from model.build.data import build_source
from model.build.network import build_student
from model.build.resolve import resolve_params
from model.build.runtime import Runtime
from model.build.teacher import build_teacher, read_teachers
from model.build.trainer import build_trainer, open_data
from model.build.weights import describe
from model.config.folder import Folder
from model.config.params import Params, parse_params
from model.files import write_json
from model.home import ROOT
from model.registry import NETS
from model.training.checkpoint import save_checkpoint
from model.training.malloc import keep_freed_memory
from model.training.precision import autocast, to_device
from model.training.trainer import Trainer
from model.types import Batch, Pipeline, Teacher

BATCH_SIZE = 128
EPOCHS = 2  # whose views the cached teacher knows: the loops go round and round them
Step = Callable[[], Any]

COMMON: dict[str, Any] = {
    "dataset": {"name": "cifar10_mini"},
    "student": {"name": "cnn"},
    "optimizer": {"name": "adam"},
    "batch_size": BATCH_SIZE,
    "num_epochs": EPOCHS,
}


class Workshop:
    """Builds the parts of runs in a folder of its own: a data set, trainers, a teacher with random weights.

    Args:
        folder: An empty folder.
        place: Device and data.
    """

    def __init__(self, folder: Path, place: Runtime) -> None:
        keep_freed_memory()  # as train.py does
        self.folder, self.place = Folder(folder), place
        write_json(self.folder.params, COMMON)  # the folder is named as the teacher's, too, which trainers are handed
        params = self.params()
        self.source = build_source(params, place)
        self.data = open_data(params, self.folder, self.source, place)
        self.batch = next(iter(self.data.train_batches(0, BATCH_SIZE)))

    def params(self, **changes: Any) -> Params:
        params = parse_params({**COMMON, **changes}, self.folder.params)
        return resolve_params(params, self.folder.params)

    def trainer(self, student: str = "cnn", teacher: Teacher | None = None) -> Trainer:
        loss: dict[str, Any] = {"ce": {}} if teacher is None else {"kd": {}}
        params = self.params(student={"name": student}, loss=loss, teacher=str(self.folder.path))
        return build_trainer(self.folder, params, self.place, self.source, self.data, teacher)

    def teacher(self, network: str, *, cache: bool) -> Teacher:
        """A teacher as train.py has it; `cache` gives one that knows all views of the epochs."""
        guide = Folder(self.folder.path / network)
        params = self.params(student={"name": network})
        if not guide.path.exists():
            guide.path.mkdir()
            write_json(guide.params, {**COMMON, "student": {"name": network}})
            net = build_student(params, self.source)
            described = describe(params, self.source)
            save_checkpoint(guide.checkpoint("best"), {"state_dict": net.state_dict(), **described})
        distilling = self.params(teacher={"model_dir": str(guide.path), "cache": cache}, loss={"kd": {}})
        trained = read_teachers(distilling, self.folder.params)
        teacher = build_teacher(trained, distilling, self.source, self.data, self.place)
        assert teacher is not None
        if cache:
            for batch in all_batches(self.data):
                teacher(batch)
            teacher = build_teacher(trained, distilling, self.source, self.data, self.place)  # as a later run finds it
            assert teacher is not None
        return teacher


def all_batches(data: Pipeline) -> Iterator[Batch]:
    for epoch in range(EPOCHS):
        yield from data.train_batches(epoch, BATCH_SIZE)


def unbounded(batches: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        yield from batches()


def bare(network: str, batch: Batch, dtype: torch.dtype, device: torch.device) -> Step:
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


def trained(trainer: Trainer) -> Step:
    """The trainer's step on the pipeline's batches, epoch after epoch."""
    batches = unbounded(lambda: all_batches(trainer.data))
    trainer.student.train()
    return lambda: trainer.train_step(next(batches))


@contextmanager
def conventional(place: Runtime) -> Iterator[Step]:
    """The loop that most projects have, in a process of its own, for the allocator there is as the system has it."""
    command = [sys.executable, "-m", "benchmarks.conventional", str(place.data_dir), str(place.device)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
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
