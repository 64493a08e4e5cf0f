"""One suite over every registered loss. A new loss needs a row in ROWS, or the suite fails."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import model.losses  # noqa: F401  registers the losses
from model.engine.teachers import LiveTeacher
from model.losses.base import DistillLoss
from model.losses.objective import Objective
from model.registry import LOSSES
from model.types import Batch, Normalisation, Output, TermOptions
from tests.losses.reference import (
    Labels,
    Logits,
    attention_transfer,
    cross_entropy,
    entropy,
    kl,
    mean_squared_difference,
    weighted_by_confidence,
)

Reference = Callable[[Logits, Logits, Labels], float]  # student, teacher, labels


class Row(NamedTuple):
    loss: str
    options: dict[str, Any]
    reference: Reference
    least_at_teacher: bool = False  # no student does better than one that says what the teacher says


def maps(logits_NK: Logits) -> list[Logits]:
    """Two stages of maps, (N, 1, 1, K) and (N, 2, K, 1), that follow from the logits."""
    turned_NK = np.roll(logits_NK, 1, axis=1)
    return [logits_NK[:, None, None, :], np.stack([logits_NK, 2 * turned_NK], axis=1)[..., None]]


ROWS = [
    Row("at", {}, lambda s, t, y: attention_transfer(maps(s), maps(t)), least_at_teacher=True),
    Row("ce", {}, lambda s, t, y: cross_entropy(s, y)),
    Row("ce", {"label_smoothing": 0.1}, lambda s, t, y: cross_entropy(s, y, label_smoothing=0.1)),
    Row("kd", {}, lambda s, t, y: 0.1 * cross_entropy(s, y) + 0.9 * 16 * kl(t, s, 4)),
    Row("kd", {"alpha": 0.0}, lambda s, t, y: cross_entropy(s, y)),
    Row("kd", {"alpha": 1.0, "temperature": 2.0}, lambda s, t, y: 4 * kl(t, s, 2), least_at_teacher=True),
    Row(
        "kd", {"alpha": 1.0, "reduction": "mean"}, lambda s, t, y: 16 * kl(t, s, 4) / s.shape[1], least_at_teacher=True
    ),
    Row("kd", {"alpha": 1.0, "t_squared": False}, lambda s, t, y: kl(t, s, 4), least_at_teacher=True),
    Row("kd", {"alpha": 1.0, "soft_scale": 2.0}, lambda s, t, y: 32 * kl(t, s, 4), least_at_teacher=True),
    Row(
        "kd",
        {"alpha": 1.0, "temperature": 3.0, "divergence": "cross_entropy"},
        lambda s, t, y: 9 * (kl(t, s, 3) + entropy(t, 3)),
        least_at_teacher=True,
    ),
    Row("kd", {"alpha": 0.5, "hard_weight": 1.0}, lambda s, t, y: cross_entropy(s, y) + 0.5 * 16 * kl(t, s, 4)),
    Row("cwtm", {}, lambda s, t, y: weighted_by_confidence(s, t, y)),
    Row("logits", {}, lambda s, t, y: mean_squared_difference(s, t), least_at_teacher=True),
]


# Random, with parameters, or of the student's exits: the suite below has none of these.
HAVE_A_FILE_OF_TESTS = {
    *("ab", "dkpp", "embedding_mse", "fitnet", "fsp", "ft", "nst", "ofd", "reviewkd", "self_distillation", "semckd"),
    "vid",
}


def row_name(row: Row) -> str:
    return " ".join([row.loss, *(f"{key}={value}" for key, value in row.options.items())])


every_row = pytest.mark.parametrize("row", ROWS, ids=row_name)


def build(row: Row) -> DistillLoss:
    return cast(DistillLoss, LOSSES.build(row.loss, **row.options))


def logits(num_samples: int, num_classes: int, seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)


def output(logits_NK: Tensor) -> Output:
    """What a network would say: logits, and maps that follow from them as `maps` has it."""
    turned_NK = logits_NK.roll(1, dims=1)
    second_NCHW = torch.stack([logits_NK, 2 * turned_NK], dim=1)[..., None]
    return Output(
        logits=logits_NK,
        embedding=logits_NK.new_zeros(len(logits_NK), 1),
        maps=(logits_NK[:, None, None, :], second_NCHW),
    )


def batch(num_samples: int, num_classes: int) -> Batch:
    index_N = torch.arange(num_samples)
    return Batch(torch.zeros(num_samples, 1, 1, 1), (index_N * 3 + 1) % num_classes, index_N, torch.zeros_like(index_N))


def value(row: Row, student_NK: Tensor, teacher_NK: Tensor, seen: Batch) -> Tensor:
    return cast(Tensor, build(row)(output(student_NK), output(teacher_NK), seen))


def test_every_registered_loss_has_a_row() -> None:
    assert {row.loss for row in ROWS} | HAVE_A_FILE_OF_TESTS == set(LOSSES.names())


@every_row
@pytest.mark.parametrize("shape", [(8, 10), (8, 2), (1, 10), (5, 3)], ids=str)
def test_value_follows_the_formula(row: Row, shape: tuple[int, int]) -> None:
    student_NK, teacher_NK, seen = logits(*shape, seed=1), logits(*shape, seed=2), batch(*shape)
    expected = row.reference(student_NK.numpy(), teacher_NK.numpy(), seen.labels.tolist())
    assert value(row, student_NK, teacher_NK, seen).item() == pytest.approx(expected, rel=1e-12)


@every_row
def test_gradient_is_the_derivative_of_the_value(row: Row) -> None:
    student_NK, teacher_NK, seen = logits(3, 4, seed=1).requires_grad_(), logits(3, 4, seed=2), batch(3, 4)
    assert torch.autograd.gradcheck(lambda s: value(row, s, teacher_NK, seen), [student_NK])


@every_row
def test_teacher_gets_no_gradient(row: Row) -> None:
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = batch(4, 5)._replace(images=images)
    same = Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3)
    net = Flat(num_classes=5)
    teacher = LiveTeacher(net, trained_on=same, fed_with=same, dtype=torch.float32, device=torch.device("cpu"))
    student = Flat(num_classes=5)
    build(row)(student(images), teacher(seen), seen).backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


class Flat(nn.Module):
    """A linear classifier of 3 x 2 x 2 images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(12, num_classes)

    def forward(self, images: Tensor) -> Output:
        flat = images.flatten(1)
        return output(self.linear(flat))


@pytest.mark.parametrize("row", [row for row in ROWS if row.least_at_teacher], ids=row_name)
def test_nothing_is_better_than_the_teacher_s_own_answer(row: Row) -> None:
    teacher_NK, seen = logits(6, 10, seed=2), batch(6, 10)
    student_NK = teacher_NK.clone().requires_grad_()
    least = value(row, student_NK, teacher_NK, seen)
    least.backward()  # type: ignore[no-untyped-call]
    assert student_NK.grad is not None
    assert student_NK.grad.abs().max() < 1e-12
    for seed in range(5):
        elsewhere = teacher_NK + logits(6, 10, seed=10 + seed, scale=0.1)
        assert value(row, elsewhere, teacher_NK, seen) > least


@every_row
def test_order_of_the_batch_does_not_matter(row: Row) -> None:
    student_NK, teacher_NK, seen = logits(7, 10, seed=1), logits(7, 10, seed=2), batch(7, 10)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    shuffled = value(row, student_NK[order], teacher_NK[order], Batch(*(tensor[order] for tensor in seen)))
    assert shuffled.item() == pytest.approx(value(row, student_NK, teacher_NK, seen).item(), rel=1e-12)


@every_row
def test_value_does_not_grow_with_the_batch(row: Row) -> None:
    student_NK, teacher_NK, seen = logits(4, 10, seed=1), logits(4, 10, seed=2), batch(4, 10)
    twice = value(row, student_NK.repeat(2, 1), teacher_NK.repeat(2, 1), Batch(*(torch.cat([t, t]) for t in seen)))
    assert twice.item() == pytest.approx(value(row, student_NK, teacher_NK, seen).item(), rel=1e-12)


@every_row
def test_last_small_batch_is_like_any_other(row: Row) -> None:
    loss = build(row)
    loss(output(logits(8, 10, seed=1)), output(logits(8, 10, seed=2)), batch(8, 10))
    student_NK, teacher_NK, seen = logits(3, 10, seed=3), logits(3, 10, seed=4), batch(3, 10)
    after_a_large_one = loss(output(student_NK), output(teacher_NK), seen)
    assert after_a_large_one.item() == value(row, student_NK, teacher_NK, seen).item()


@every_row
def test_huge_logits_give_a_finite_loss_and_gradient(row: Row) -> None:
    student_NK = logits(8, 10, seed=1, scale=1e4).float().requires_grad_()
    loss = value(row, student_NK, logits(8, 10, seed=2, scale=1e4).float(), batch(8, 10))
    loss.backward()  # type: ignore[no-untyped-call]
    assert student_NK.grad is not None
    assert loss.isfinite()
    assert student_NK.grad.isfinite().all()


@every_row
def test_bfloat16_logits_are_compared_in_float32(row: Row) -> None:
    student_NK, teacher_NK, seen = logits(8, 10, seed=1).bfloat16(), logits(8, 10, seed=2).bfloat16(), batch(8, 10)
    objective = Objective({row.loss: (build(row), TermOptions())})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = objective(output(student_NK), output(teacher_NK), seen, epoch=0.0)
    exactly = (student_NK.double().numpy(), teacher_NK.double().numpy())
    assert total.dtype == torch.float32
    assert np.isclose(total.item(), row.reference(*exactly, seen.labels.tolist()), rtol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_loss_reads_of_the_teacher_only_what_it_needs(row: Row) -> None:
    loss, student, teacher, seen = (
        build(row),
        output(logits(8, 10, seed=1)),
        output(logits(8, 10, seed=2)),
        batch(8, 10),
    )
    parts = {"logits" if need == "probabilities" else need for need in loss.needs}
    needed = cast(Output, SimpleNamespace(**{part: getattr(teacher, part) for part in parts}))
    assert torch.equal(loss(student, needed, seen), loss(student, teacher, seen))


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_loss_that_needs_probabilities_does_not_see_a_shift_of_the_logits(row: Row) -> None:
    loss, student, seen = build(row), output(logits(8, 10, seed=1)), batch(8, 10)
    teacher_NK, shift_N1 = logits(8, 10, seed=2), torch.arange(8.0)[:, None]
    teacher = output(teacher_NK)
    shifted = teacher._replace(logits=teacher_NK + shift_N1)
    same = torch.allclose(loss(student, shifted, seen), loss(student, teacher, seen))
    assert same is not ("logits" in loss.needs)
