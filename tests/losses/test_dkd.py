"""Decoupled knowledge distillation: its two parts, and the divergence that they decompose."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from model.losses.dkd import DecoupledKnowledgeDistillation
from model.types import Batch, Output
from tests.losses.reference import kl, probability

LABEL = 2
BATCH = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([LABEL]), torch.zeros(1), torch.zeros(1))


def random_logits(num_classes: int, seed: int) -> Tensor:
    return 2 * torch.randn(1, num_classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(student_NK: Tensor, teacher_NK: Tensor, batch: Batch = BATCH, **options: float) -> Tensor:
    loss = DecoupledKnowledgeDistillation(**options)  # type: ignore[arg-type]
    return cast(Tensor, loss(Output(student_NK, student_NK), Output(teacher_NK, teacher_NK), batch))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_is_the_first_part_plus_the_second_times_the_rest_s_probability(temperature: float) -> None:
    student_NK, teacher_NK = random_logits(10, seed=1), random_logits(10, seed=2)
    rest = 1 - probability(teacher_NK[0].tolist(), LABEL, temperature)
    actual = value(student_NK, teacher_NK, alpha=1.0, beta=rest, temperature=temperature).item()
    expected = temperature**2 * kl(teacher_NK.numpy(), student_NK.numpy(), temperature)
    assert actual == pytest.approx(expected, rel=1e-12)


def test_two_classes_have_no_second_part() -> None:
    batch = replace(BATCH, labels=torch.tensor([1]))
    student_NK = random_logits(2, seed=1).requires_grad_()
    loss = value(student_NK, random_logits(2, seed=2), batch, alpha=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student_NK.grad is not None
    assert (loss.item(), student_NK.grad.tolist()) == (0.0, [[0.0, 0.0]])
