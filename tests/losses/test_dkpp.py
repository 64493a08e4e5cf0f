"""Dark knowledge with permuted predictions."""

from collections import Counter

import numpy as np
import pytest
import torch

from model.losses.dkpp import DarkKnowledgeWithPermutedPredictions, permuted
from model.types import Batch, Output
from tests.losses.reference import entropy, kl

LABELS = torch.tensor([0, 1, 1])
BATCH = Batch(torch.zeros(3, 1, 1, 1), LABELS, torch.arange(3), torch.zeros(3, dtype=torch.long))


def output_of(*logits: list[float]) -> Output:
    scores = torch.tensor(logits, dtype=torch.float64)
    return Output(scores, scores)


def test_with_two_classes_there_is_nothing_to_permute() -> None:
    student, teacher = output_of([1.0, 0.0], [0.5, 2.0], [0.0, 0.0]), output_of([3.0, 1.0], [0.0, 1.0], [2.0, 2.5])
    actual = DarkKnowledgeWithPermutedPredictions()(student, teacher, BATCH).item()
    teacher_logits = teacher.logits.numpy()
    assert actual == pytest.approx(
        kl(teacher_logits, student.logits.numpy(), 1) + entropy(teacher_logits, 1), rel=1e-12
    )


def test_largest_probability_stays_and_the_others_are_permuted() -> None:
    p_NK = torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).repeat(200, 1)
    actual = permuted(p_NK)
    assert (actual[:, 1] == 0.6).all()
    assert all(sorted(row) == sorted(p_NK[0].tolist()) for row in actual.tolist())


def test_all_orders_of_the_others_are_equally_likely() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actual = permuted(torch.tensor([[0.1, 0.2, 0.4, 0.3]]).repeat(6000, 1))
    counts = Counter(tuple(np.round(row, 1)) for row in actual.tolist())
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())  # 5 standard deviations


def test_permutation_changes_from_step_to_step_and_repeats_with_the_seed() -> None:
    p_NK = torch.rand(50, 10, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = permuted(p_NK), permuted(p_NK)
        torch.manual_seed(1)
        repeated = permuted(p_NK)
    assert torch.equal(first, repeated)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_value_and_gradient_are_finite(scale: float) -> None:
    student = torch.tensor([[1.0, -1.0, 0.5]]) * scale
    student.requires_grad_()
    teacher = Output(torch.tensor([[0.3, 1.0, -1.0]]) * scale, torch.zeros(1, 1))
    loss = DarkKnowledgeWithPermutedPredictions()(Output(student, student), teacher, BATCH)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
