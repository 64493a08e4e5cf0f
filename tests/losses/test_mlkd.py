"""Multi-level logit distillation on two views; one view is tested in test_losses.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.losses.mlkd import MultiLevelLogitDistillation
from model.types import Batch, LossContext, Output
from tests.losses.reference import cross_entropy, kl, multi_level

N, K = 6, 5
LABELS = torch.tensor([0, 3, 1, 4, 2, 2])


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(2 * N, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output_of(logits_NK: Tensor) -> Output:
    return Output(logits_NK, logits_NK)


def loss_of_two_views(student_NK: Tensor, teacher_NK: Tensor, **options: object) -> float:
    loss = MultiLevelLogitDistillation(**options)  # type: ignore[arg-type]
    loss.prepare(
        LossContext(student=output_of(student_NK), teacher=output_of(teacher_NK), labels=LABELS, seed=0, views_shown=2)
    )
    index = torch.arange(N).repeat(2)
    batch = Batch(torch.empty(2 * N, 0), LABELS.repeat(2), index, index)
    value: Tensor = loss(output_of(student_NK), output_of(teacher_NK), batch)
    return value.item()


@pytest.mark.parametrize(("temperatures", "unsure_half"), [([2.0, 3.0, 4.0, 5.0, 6.0], True), ([4.0], False)])
def test_strong_views_add_their_labels_and_their_divergence(temperatures: list[float], unsure_half: bool) -> None:
    student, teacher = logits(1), logits(2)
    weak = multi_level(student[:N].numpy(), teacher[:N].numpy(), LABELS.tolist(), temperatures, unsure_half=unsure_half)
    strong_s, strong_t = student[N:].numpy(), teacher[N:].numpy()
    strong = 0.1 * cross_entropy(strong_s, LABELS.tolist())
    strong += 0.9 * sum(T**2 * kl(strong_t, strong_s, T) for T in temperatures)
    actual = loss_of_two_views(student, teacher, temperatures=temperatures, unsure_half=unsure_half)
    assert actual == pytest.approx(weak + strong, rel=1e-9)
    assert actual != pytest.approx(weak, rel=0.1)
