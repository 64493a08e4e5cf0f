"""Weighted soft labels: the weights, and that no gradient goes through them."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses.wsld import WeightedSoftLabelDistillation
from model.types import Batch, Output
from tests.losses.reference import cross_entropy, entropy, kl, softened

LABELS = [3, 0, 1]
BATCH = Batch(torch.zeros(3, 1, 1, 1), torch.tensor(LABELS), torch.arange(3), torch.zeros(3))


def random_logits(seed: int) -> Tensor:
    return 2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(student_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    loss = WeightedSoftLabelDistillation(temperature=4.0)
    return cast(Tensor, loss(Output(student_NK, student_NK), Output(teacher_NK, teacher_NK), BATCH))


def test_gradient_is_that_of_the_soft_part_with_constant_weights() -> None:
    student_NK, teacher_NK = random_logits(1).requires_grad_(), random_logits(2)
    value(student_NK, teacher_NK).backward()  # type: ignore[no-untyped-call]
    student, teacher = student_NK.detach().numpy(), teacher_NK.numpy()
    expected = np.zeros((3, 5))
    for n, label in enumerate(LABELS):
        ratio = cross_entropy(student[n : n + 1], [label]) / cross_entropy(teacher[n : n + 1], [label])
        # T^2 times the derivative of the cross-entropy with respect to logits that are divided by T.
        expected[n] = (1 - np.exp(-ratio)) * 4 * (softened(student, 4)[n] - softened(teacher, 4)[n]) / 3
    assert student_NK.grad is not None
    np.testing.assert_allclose(student_NK.grad.numpy(), expected, rtol=1e-5)


def test_a_teacher_that_is_certain_of_the_labels_has_weight_1() -> None:
    teacher_NK = torch.zeros(3, 5, dtype=torch.float64).scatter(1, BATCH.labels[:, None], 100.0)
    student_NK = random_logits(1)
    divergence = kl(teacher_NK.numpy(), student_NK.numpy(), 4) + entropy(teacher_NK.numpy(), 4)
    assert value(student_NK, teacher_NK).item() == pytest.approx(16 * divergence, rel=1e-12)


def test_a_student_that_is_certain_of_the_labels_learns_nothing() -> None:
    student_NK = torch.zeros(3, 5, dtype=torch.float64).scatter(1, BATCH.labels[:, None], 100.0)
    assert value(student_NK, random_logits(2)).item() == 0.0
