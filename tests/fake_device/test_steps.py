"""A training step on a fake GPU: all of it on one device, and the host waits for nothing."""

from __future__ import annotations

from typing import Any, cast

import pytest
from torch import nn

from model.registry import OPTIMIZERS
from model.training.trainer import Trainer
from tests.fake_device.fake_device import FakeDevice
from tests.untrained import METHODS, UntrainedExperiments, first_batch, trainer_of


@pytest.mark.parametrize("method", METHODS)
def test_step_with_every_loss_stays_on_the_device(
    method: str, gpu: FakeDevice, untrained: UntrainedExperiments
) -> None:
    trainer = trainer_of(untrained.of_method(method, gpu.device))
    take_steps(trainer, gpu)
    assert gpu.holds(cast(nn.Module, trainer.objective))
    assert gpu.holds(trainer.student)


@pytest.mark.parametrize(
    "values",
    [
        *({"optimizer": {"name": name}} for name in OPTIMIZERS.names()),
        {"gradient_clip": 1.0},
        {"accumulate": 2, "batch_size": 4},
        {"precision": "float32"},
        {"dataset.strong_view": True},
        {"dataset.cutout": 8},
        {"schedule": {"name": "cosine", "warmup_epochs": 1.0}},
        {"loss": {"ce": {}, "kd": {"alpha": 1.0, "weight": 2.0, "warmup_epochs": 1.0}}},
    ],
    ids=str,
)
def test_step_with_every_option_stays_on_the_device(
    values: dict[str, Any], device: FakeDevice, untrained: UntrainedExperiments
) -> None:
    options = {"loss": {"kd": {}}, "teacher": untrained.teacher()} | values
    trainer = trainer_of(untrained.make(device.device, **options))
    take_steps(trainer, device, num_steps=2)  # the first one makes the optimizer's state
    assert device.holds(trainer.student)
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert {state.device for state in states} == {device.device}
    assert trainer.meters.sums.device == device.device


def take_steps(trainer: Trainer, device: FakeDevice, num_steps: int = 1) -> None:
    batch = first_batch(trainer)
    with device.step():
        for _ in range(num_steps):
            trainer.take_step(*[batch] * trainer.accumulate)
