"""Losses that compare the images of a batch: their invariances, and images without a direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from model.losses.base import DistillLoss
from model.losses.cc import CorrelationCongruence
from model.losses.relations import l2_normalize
from model.losses.rkd import relative_distances
from model.registry import LOSSES
from model.types import Batch, Output

N, D = 6, 5
BATCH = Batch(torch.zeros(N, 1, 1, 1), torch.zeros(N, dtype=torch.long), torch.arange(N), torch.zeros(N))


def points(seed: int) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output_of(embedding_ND: Tensor) -> Output:
    """An output whose last map holds the embedding."""
    return Output(embedding_ND.new_zeros(N, 2), embedding_ND, (embedding_ND[:, :, None, None],))


def value(name: str, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return cast(Tensor, cast(DistillLoss, LOSSES.build(name))(output_of(student_ND), output_of(teacher_ND), BATCH))


def rotated(embedding_ND: Tensor) -> Tensor:
    rotation_DD, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9)).double())
    return embedding_ND.matmul(rotation_DD)


INVARIANT_TO: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "cc": [rotated, lambda x: 7 * x, lambda x: x * torch.arange(1, N + 1)[:, None]],
    "pkt": [rotated, lambda x: 7 * x, lambda x: x * torch.arange(1, N + 1)[:, None]],
    "rkd": [rotated, lambda x: 7 * x, lambda x: x + 3],
    "sp": [rotated, lambda x: 7 * x],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in INVARIANT_TO for change in INVARIANT_TO[name]])
def test_loss_is_invariant(name: str, change: Callable[[Tensor], Tensor]) -> None:
    student_ND, teacher_ND = points(1), points(2)
    plain = value(name, student_ND, teacher_ND).item()
    assert value(name, change(student_ND), teacher_ND).item() == pytest.approx(plain, rel=1e-10)
    assert value(name, student_ND, change(teacher_ND)).item() == pytest.approx(plain, rel=1e-10)


@pytest.mark.parametrize("name", INVARIANT_TO)
@pytest.mark.parametrize("equal", [0.0, 1.0])
def test_two_images_with_equal_embeddings_give_no_huge_gradient(name: str, equal: float) -> None:
    student_ND = points(1).float()
    student_ND[:2] = equal
    student_ND.requires_grad_()
    value(name, student_ND, points(2).float()).backward()  # type: ignore[no-untyped-call]
    assert student_ND.grad is not None
    assert student_ND.grad.abs().max() < 100


def test_zeros_have_no_direction() -> None:
    assert l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


def test_distances_of_a_right_triangle_over_their_mean() -> None:
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # sides 3, 4 and 5
    expected = torch.tensor([[0.0, 0.75, 1.0], [0.75, 0.0, 1.25], [1.0, 1.25, 0.0]])
    torch.testing.assert_close(relative_distances(corners[None] - corners[:, None]), expected)


def test_the_series_converges_to_the_gaussian_kernel() -> None:
    embedding_ND = points(1)
    unit_ND = embedding_ND / embedding_ND.norm(dim=1, keepdim=True)
    actual = CorrelationCongruence(gamma=0.7, order=20).kernel(embedding_ND)
    for i in range(N):
        for j in range(N):
            exact = math.exp(-0.7 * (unit_ND[i] - unit_ND[j]).square().sum().item())
            assert actual[i, j].item() == pytest.approx(exact, rel=1e-12)


def test_sp_names_the_network_without_maps() -> None:
    with pytest.raises(ValueError, match="the student returns no maps to compare"):
        LOSSES.build("sp")(output_of(points(1))._replace(maps=()), output_of(points(2)), BATCH)
