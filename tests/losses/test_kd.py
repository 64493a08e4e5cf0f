"""Hinton's objective, and what published code means by "alpha, T"."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from model.losses.base import DistillLoss
from model.losses.kd import KnowledgeDistillation
from model.registry import LOSSES
from model.types import Batch, Output
from tests.losses.reference import cross_entropy, entropy, kl

NUM_CLASSES = 10


def logits(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(8, NUM_CLASSES, generator=generator, dtype=torch.float64)


def value(options: dict[str, Any], student_NK: Tensor, teacher_NK: Tensor | None, labels: list[int]) -> Tensor:
    labels_N = torch.tensor(labels)
    loss = cast(DistillLoss, LOSSES.build("kd", **options))
    seen = Batch(torch.zeros(8, 1, 1, 1), labels_N, torch.arange(8), torch.zeros(8, dtype=torch.long))
    student = Output(student_NK, student_NK)
    teacher = cast(Output, None if teacher_NK is None else Output(teacher_NK, teacher_NK))
    return cast(Tensor, loss(student, teacher, seen))


LABELS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize(
    ("options", "soft_weight", "hard_weight"),
    [
        pytest.param({"alpha": 0.9, "temperature": 4.0}, 14.4, 0.1, id="attention-transfer"),
        pytest.param({"alpha": 0.9, "temperature": 20.0, "reduction": "mean"}, 36.0, 0.1, id="peterliht CIFAR"),
        pytest.param(
            {"alpha": 0.7, "temperature": 20.0, "reduction": "mean", "soft_scale": 2.0}, 56.0, 0.3, id="peterliht MNIST"
        ),
        pytest.param(
            {"alpha": 1.0, "temperature": 10.0, "reduction": "mean"}, 10.0, 0.0, id="peterliht MNIST without labels"
        ),
        pytest.param(
            {"alpha": 0.2, "temperature": 20.0, "reduction": "mean", "t_squared": False},
            0.02,
            0.8,
            id="born_again_neuralnet",
        ),
        pytest.param(
            {"alpha": 0.9, "temperature": 4.0, "reduction": "mean", "soft_scale": 2.0}, 2.88, 0.1, id="moonshine"
        ),
        pytest.param({"alpha": 1.0, "temperature": 4.0, "hard_weight": 1.0}, 16.0, 1.0, id="hankyul2 ST"),
        pytest.param({"alpha": 0.9, "temperature": 4.0, "hard_weight": 1.0}, 14.4, 1.0, id="hankyul2 AT+ST"),
        pytest.param({"alpha": 0.1, "temperature": 4.0, "hard_weight": 1.0}, 1.6, 1.0, id="Knowledge-Distillation-Zoo"),
    ],
)
def test_published_conventions_have_their_weights_of_divergence_and_labels(
    options: dict[str, Any], soft_weight: float, hard_weight: float
) -> None:
    student_NK, teacher_NK = logits(1), logits(2)
    divergence = kl(teacher_NK.numpy(), student_NK.numpy(), options["temperature"])
    expected = soft_weight * divergence + hard_weight * cross_entropy(student_NK.numpy(), LABELS)
    assert value(options, student_NK, teacher_NK, LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_soft_cross_entropy_is_larger_than_the_divergence_by_the_teacher_s_entropy() -> None:
    options = {"alpha": 0.3, "temperature": 3.0}  # be-your-own-teacher's, for one shallow exit
    student_NK, teacher_NK = logits(1), logits(2)
    soft = value(options | {"divergence": "cross_entropy"}, student_NK, teacher_NK, LABELS)
    difference = soft - value(options, student_NK, teacher_NK, LABELS)
    assert difference.item() == pytest.approx(0.3 * 9 * entropy(teacher_NK.numpy(), 3.0), rel=1e-10)


def test_soft_cross_entropy_has_the_divergence_s_gradient() -> None:
    gradients = []
    for divergence in ("kl", "cross_entropy"):
        student_NK = logits(1).requires_grad_()
        value({"divergence": divergence}, student_NK, logits(2), LABELS).backward()  # type: ignore[no-untyped-call]
        gradients.append(student_NK.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [10.0, 20.0, 40.0, 80.0])
def test_gradient_hardly_depends_on_a_high_temperature(temperature: float) -> None:
    student_NK, teacher_NK = logits(1, scale=1.0).requires_grad_(), logits(2, scale=1.0)
    options = {"alpha": 1.0, "temperature": temperature}
    value(options, student_NK, teacher_NK, LABELS).backward()  # type: ignore[no-untyped-call]
    student, teacher = student_NK.detach().numpy(), teacher_NK.numpy()
    # The limit of an infinite temperature (Hinton et al., eq. 4): difference of centred logits, over classes and batch.
    limit = (student - student.mean(axis=1, keepdims=True) - teacher + teacher.mean(axis=1, keepdims=True)) / (10 * 8)
    assert student_NK.grad is not None
    assert np.linalg.norm(student_NK.grad.numpy()) == pytest.approx(np.linalg.norm(limit), rel=1.0 / temperature)


def test_alpha_1_uses_no_labels() -> None:
    right = value({"alpha": 1.0}, logits(1), logits(2), LABELS)
    wrong = value({"alpha": 1.0}, logits(1), logits(2), [(label + 5) % NUM_CLASSES for label in LABELS])
    assert right == wrong


def test_alpha_0_needs_no_teacher() -> None:
    assert not KnowledgeDistillation(alpha=0.0).needs
    expected = cross_entropy(logits(1).numpy(), LABELS)
    assert value({"alpha": 0.0}, logits(1), None, LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        KnowledgeDistillation(alpha=0.0, hard_weight=0.0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_that_of_the_hard_part(label_smoothing: float) -> None:
    student_NK, teacher_NK = logits(0), logits(1)
    options = {"alpha": 0.3, "temperature": 2.0, "label_smoothing": label_smoothing}
    log_p_NK = student_NK.numpy() - np.log(np.exp(student_NK.numpy()).sum(axis=1, keepdims=True))
    target_NK = (1 - label_smoothing) * np.eye(NUM_CLASSES)[LABELS] + label_smoothing / NUM_CLASSES
    expected = -0.7 * (target_NK * log_p_NK).sum(axis=1).mean()
    soft = value({"alpha": 0.3, "temperature": 2.0, "hard_weight": 0.0}, student_NK, teacher_NK, LABELS)
    assert value(options, student_NK, teacher_NK, LABELS).item() == pytest.approx(expected + soft.item())


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0])
def test_label_smoothing_is_a_share(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got"):
        KnowledgeDistillation(label_smoothing=label_smoothing)
