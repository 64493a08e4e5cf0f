"""Curriculum temperature: its value, and the reversal of its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from model.losses.ctkd import CurriculumTemperature
from model.types import Batch, Output
from tests.losses.reference import kl

LABELS = torch.tensor([3, 0, 1])
BATCH = Batch(torch.zeros(3, 1, 1, 1), LABELS, torch.arange(3), torch.zeros(3))
STUDENT, TEACHER = (
    2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (1, 2)
)


def soft(theta: float) -> float:
    temperature = 1 + 20 / (1 + math.exp(-theta))
    return temperature**2 * kl(TEACHER.numpy(), STUDENT.numpy(), temperature)


@pytest.mark.parametrize(("epoch", "factor"), [(0.0, 0.0), (5.0, -0.5), (2.5, -0.146447), (10.0, -1.0), (99.5, -1.0)])
def test_gradient_of_the_temperature_is_gradually_reversed(epoch: float, factor: float) -> None:
    loss = CurriculumTemperature(alpha=0.7).double()
    loss.epoch = epoch
    total = loss(Output(STUDENT, STUDENT), Output(TEACHER, TEACHER), BATCH)
    total.backward()
    slope = (soft(1 + 1e-5) - soft(1 - 1e-5)) / 2e-5
    assert loss.theta.grad is not None
    assert loss.theta.grad.item() == pytest.approx(0.7 * factor * slope, rel=1e-5, abs=1e-12)


def test_a_step_along_the_reversed_gradient_increases_the_loss() -> None:
    loss = CurriculumTemperature().double()
    loss.epoch = 20.0
    outputs = Output(STUDENT, STUDENT), Output(TEACHER, TEACHER)
    before = loss(*outputs, BATCH)
    before.backward()
    with torch.no_grad():
        assert loss.theta.grad is not None
        loss.theta.sub_(0.1 * loss.theta.grad.sign())
    assert loss(*outputs, BATCH) > before
