"""A training step on a GPU waits for nothing and keeps no memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from model.build.experiment import Experiment
from model.build.teacher import build_teacher, read_teacher_weights
from model.build.trainer import build_trainer, describe
from model.teachers.cached import CachedTeacher
from model.teachers.row_store import DeviceRowStore
from model.training.checkpoint import save_checkpoint
from tests.untrained import METHODS, UntrainedExperiments, first_batch, live_teacher, trainer_of


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """A block in which PyTorch raises where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_step_with_every_loss_waits_for_nothing(
    method: str, gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    trainer = trainer_of(untrained.of_method(method, gpu))
    batch = first_batch(trainer)
    trainer.take_step(batch)  # the first one chooses algorithms and makes the optimizer's state
    with no_synchronisation():
        trainer.take_step(batch)
    assert math.isfinite(trainer.meters.means()["loss"])


@pytest.mark.parametrize("cutout", [0, 8])
def test_batches_of_data_in_memory_are_made_without_waiting(
    cutout: int, gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    batches = untrained.make(gpu, **{"dataset.cutout": cutout}).data.train_batches(0, 8)
    next(batches)
    with no_synchronisation():
        next(batches)


def test_cached_outputs_are_on_the_device_and_read_without_waiting(
    gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    experiment, teacher = with_cached_teacher(gpu, untrained)
    assert all(isinstance(part.store, DeviceRowStore) for part in teacher.parts.values())
    list(teacher.precompute(experiment.data, epoch=0))
    trainer = build_trainer(experiment, teacher)
    batches = trainer.train_batches(0, 0)
    trainer.take_step(next(batches))
    with no_synchronisation():
        trainer.take_step(next(batches))


def test_cached_outputs_are_those_of_the_live_teacher(gpu: torch.device, untrained: UntrainedExperiments) -> None:
    experiment, teacher = with_cached_teacher(gpu, untrained)
    list(teacher.precompute(experiment.data, epoch=0))
    for batch in experiment.data.train_batches(0, 8):
        live, cached = teacher.live(batch), teacher(batch)
        torch.testing.assert_close(cached.logits, live.logits.float(), rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(cached.embedding, live.embedding.float(), rtol=1e-2, atol=1e-2)


def with_cached_teacher(gpu: torch.device, untrained: UntrainedExperiments) -> tuple[Experiment, CachedTeacher]:
    experiment = untrained.make(gpu, loss={"kd": {}, "pkt": {}}, teacher=untrained.teacher(), precision="float32")
    (folder,) = experiment.teachers
    content = {"state_dict": live_teacher(experiment, folder).net.state_dict(), **describe(folder)}
    save_checkpoint(folder.folder.checkpoint("best"), content)
    teacher = build_teacher(experiment, read_teacher_weights(experiment))
    assert isinstance(teacher, CachedTeacher)
    return experiment, teacher


def test_compiled_teacher_agrees_and_its_outputs_are_not_overwritten(
    gpu: torch.device, untrained: UntrainedExperiments
) -> None:
    experiment = untrained.make(gpu, loss={"kd": {}}, teacher=untrained.teacher(), precision="float32")
    teacher = live_teacher(experiment, experiment.teachers[0])
    batches = list(experiment.data.train_batches(0, 8))
    expected = [teacher.run_uncompiled(batch).logits for batch in batches]
    teacher.compile(8)
    for logits, output in zip(expected, [teacher(batch) for batch in batches], strict=True):
        torch.testing.assert_close(output.logits, logits, rtol=1e-3, atol=1e-3)


def test_steps_keep_no_memory(gpu: torch.device, untrained: UntrainedExperiments) -> None:
    trainer = trainer_of(untrained.of_method("crd", gpu))
    allocated = []
    for _ in range(3):
        for batch in trainer.train_batches(0, 0):
            trainer.take_step(batch)
        allocated.append(torch.cuda.memory_allocated(gpu))
    assert allocated[2] == allocated[1]


def test_dropout_is_a_function_of_the_step(gpu: torch.device, untrained: UntrainedExperiments) -> None:
    trainer = trainer_of(untrained.make(gpu, student={"name": "cnn", "dropout": 0.5}, precision="float32"))
    batch = first_batch(trainer)
    trainer.student.train()

    def loss_of(step: int) -> float:
        trainer.train_step.seed_step(step)
        return trainer.train_step.forward(trainer.student, batch, step).loss.item()

    first, second, again = loss_of(0), loss_of(1), loss_of(0)
    assert first == pytest.approx(again, rel=1e-5)
    assert first != pytest.approx(second, rel=1e-5)
