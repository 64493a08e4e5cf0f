"""Refined logit distillation: classes that the teacher ranks above the label's."""

import pytest
import torch

from model.losses.rld import RefinedLogitDistillation
from model.types import Batch, Output
from tests.losses.reference import kl

TEACHER = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.5, 1.5, -1.0, 0.3, 2.0]], dtype=torch.float64)


def batch_of(label: int) -> Batch:
    return Batch(torch.zeros(1, 1, 1, 1), torch.tensor([label]), torch.zeros(1), torch.zeros(1))


def test_what_the_teacher_ranks_above_the_label_is_left_out() -> None:
    loss = RefinedLogitDistillation(alpha=0.0, beta=1.0, temperature=2.0)
    actual = loss(Output(STUDENT, STUDENT), Output(TEACHER, TEACHER), batch_of(1)).item()
    assert actual == pytest.approx(4 * kl(TEACHER[:, 3:].numpy(), STUDENT[:, 3:].numpy(), 2.0), rel=1e-12)


def test_a_label_that_the_teacher_ranks_last_leaves_nothing_to_learn() -> None:
    loss = RefinedLogitDistillation(alpha=0.0, beta=1.0)
    student_NK = STUDENT.clone().requires_grad_()
    total = loss(Output(student_NK, student_NK), Output(TEACHER, TEACHER), batch_of(4))
    total.backward()
    assert student_NK.grad is not None
    assert (total.item(), student_NK.grad.abs().max().item()) == (0.0, 0.0)


def test_a_wrong_teacher_s_confidence_is_the_target_for_the_label() -> None:
    loss = RefinedLogitDistillation(alpha=1.0, beta=0.0)
    # Of the teacher's most probable class.
    log_odds = 3.0 - torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64).logsumexp(0)
    # A student with the same log-odds of the label, which the teacher ranks second.
    student_NK = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    student_NK[0, 2] = log_odds + torch.tensor(4.0).log()
    student, teacher = Output(student_NK, student_NK), Output(TEACHER, TEACHER)
    assert loss(student, teacher, batch_of(2)).item() == pytest.approx(0, abs=1e-12)
