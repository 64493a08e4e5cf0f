"""Evaluation and resuming on a fake GPU, and metrics without float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from model.evaluation.metrics import Predictions, metrics_of, predict
from model.training.checkpoint import restore, training_state
from model.training.precision import widest_float
from tests.fake_device.fake_device import FakeDevice, StrictMode, sum_as_on_mps
from tests.untrained import UntrainedExperiments, first_batch, trainer_of

EXITS = {"name": "multi_exit_resnet18"}


@pytest.mark.parametrize("student", [{"name": "cnn", "num_channels": 4}, EXITS], ids=str)
def test_predictions_are_made_on_the_device(
    student: dict[str, object], gpu: FakeDevice, untrained: UntrainedExperiments
) -> None:
    trainer = trainer_of(untrained.make(gpu.device, student=student))
    batches = list(trainer.data.eval_batches("test", 4))
    with gpu.step():
        result = predict(trainer.student, batches, dtype=torch.bfloat16, device=gpu.device)
    assert {tensor.device for tensor in (result.logits, result.labels, result.index, *result.exits)} == {gpu.device}
    assert len(result.exits) == (3 if student is EXITS else 0)


def test_mps_sums_in_float32() -> None:
    assert widest_float(torch.device("mps")) is torch.float32


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_devices_sum_in_float64(device: str) -> None:
    assert widest_float(torch.device(device)) is torch.float64


def test_metrics_need_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first_NK, last_NK = (torch.randn(50, 10, generator=generator) for _ in range(2))
    predictions = Predictions(last_NK, torch.arange(50) % 10, torch.arange(50), (first_NK,))
    expected = metrics_of(predictions)
    sum_as_on_mps(monkeypatch)
    with StrictMode(without_float64="cpu"):
        metrics = metrics_of(predictions)
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_a_run_is_resumed_on_the_device_from_a_checkpoint_on_the_cpu(
    gpu: FakeDevice, untrained: UntrainedExperiments
) -> None:
    experiment = untrained.make(gpu.device, optimizer={"name": "adam"})
    trainer = trainer_of(experiment)
    trainer.take_step(first_batch(trainer))
    checkpoint = pytree.tree_map_only(Tensor, Tensor.cpu, training_state(trainer))
    resumed = trainer_of(experiment)
    restore(resumed, checkpoint)
    batch = first_batch(resumed)
    with gpu.step():
        resumed.take_step(batch)
    assert gpu.holds(resumed.student)
    states = [value for state in resumed.optimizer.state.values() for value in state.values()]
    assert {state.device for state in (*states, resumed.meters.sums)} == {gpu.device}
