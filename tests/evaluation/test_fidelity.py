"""Agreement of student and teacher: hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch

from model.evaluation.fidelity import agreement, divergence, fidelity_of, linear_cka, wrong_alike
from model.types import Output

STUDENT = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 2.0, 3.0], [5.0, 0.0, 0.0]])  # predicts 0, 1, 2, 0
TEACHER = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])  # predicts 0, 2, 2, 1


def test_agreement_counts_equal_predictions() -> None:
    assert agreement(STUDENT, TEACHER) == 0.5


def test_wrong_alike_is_of_those_that_both_get_wrong() -> None:
    # Labels 0, 0, 0, 0: both are wrong on the second (1, 2) and the third (2, 2).
    assert wrong_alike(STUDENT, TEACHER, torch.tensor([0, 0, 0, 0])) == 0.5
    assert wrong_alike(STUDENT, TEACHER, torch.tensor([0, 1, 2, 1])) is None


def test_divergence_is_kl_of_the_teacher_from_the_student() -> None:
    student, teacher = torch.tensor([[math.log(0.5), math.log(0.5)]]), torch.tensor([[math.log(0.8), math.log(0.2)]])
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert divergence(student, teacher, temperature=1.0) == pytest.approx(expected)


def test_divergence_at_a_temperature_is_that_of_the_softened_logits() -> None:
    assert divergence(STUDENT, TEACHER, temperature=4.0) == pytest.approx(divergence(STUDENT / 4, TEACHER / 4, 1.0))
    assert divergence(TEACHER, TEACHER, temperature=4.0) == pytest.approx(0.0, abs=1e-12)


def test_cka_is_1_for_rotated_and_scaled_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(50, 6, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    assert linear_cka(one, 3 * one @ rotation + 7) == pytest.approx(1.0, abs=1e-5)


def test_cka_agrees_with_the_kernel_form() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(20, 4, generator=generator), torch.randn(20, 9, generator=generator)
    centring = torch.eye(20) - torch.full((20, 20), 1 / 20)
    k, m = (centring @ values @ values.T @ centring for values in (one, other))
    assert linear_cka(one, other) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), rel=1e-4)


def test_cka_of_unrelated_features_is_small() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5000, 3, generator=generator) for _ in range(2))
    cka = linear_cka(one, other)
    assert cka is not None
    assert cka < 0.01


def test_constant_embedding_has_no_cka() -> None:
    assert linear_cka(torch.ones(4, 3), torch.eye(4)) is None


def test_fidelity_has_the_teacher_s_accuracy_beside_all_of_these() -> None:
    labels = torch.tensor([0, 2, 0, 1])
    student, teacher = (Output(logits=logits, embedding=torch.eye(4)) for logits in (STUDENT, TEACHER))
    assert fidelity_of(student, teacher, labels) == {
        "teacher_accuracy": 0.75,
        "agreement": 0.5,
        "divergence_at_1": divergence(STUDENT, TEACHER, 1.0),
        "divergence_at_4": divergence(STUDENT, TEACHER, 4.0),
        "cka": pytest.approx(1.0),
        "wrong_alike": 1.0,  # on the third image alone, both predict 2
    }
