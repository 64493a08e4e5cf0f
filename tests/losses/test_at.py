"""Attention transfer, and the pairing of maps."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from model.losses.at import AttentionTransfer, attention
from model.losses.maps import paired
from model.types import Batch, Output
from tests.losses.reference import attention_transfer

BATCH = Batch(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.long), torch.arange(3), torch.zeros(3))


def random_maps(*sizes: tuple[int, int], seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """A map of 3 images for each number of channels and side."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(3, channels, side, side, generator=generator, dtype=torch.float64).to(dtype)
        for channels, side in sizes
    )


def value(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    nothing = torch.zeros(3, 1)
    loss = AttentionTransfer()
    return cast(Tensor, loss(Output(nothing, nothing, student), Output(nothing, nothing, teacher), BATCH))


def test_a_worked_example() -> None:
    # Energies of the student (9 + 7, 4 + 8) / 2 = (8, 6), of length 10; of the teacher (0, 5), of length 5:
    # ((0.8 - 0)^2 + (0.6 - 1)^2) / 2 = (0.64 + 0.16) / 2.
    student = torch.tensor([[[[3.0, 2.0]], [[7.0**0.5, 8.0**0.5]]]])
    teacher = torch.tensor([[[[0.0, 5.0**0.5]]]])
    assert value((student,), (teacher,)).item() == pytest.approx(0.4, rel=1e-6)


def test_stages_are_summed() -> None:
    student, teacher = random_maps((2, 4), (3, 2), seed=1), random_maps((5, 4), (1, 2), seed=2)
    parts = [value((s,), (t,)).item() for s, t in zip(student, teacher, strict=True)]
    assert value(student, teacher).item() == pytest.approx(sum(parts), rel=1e-12)
    reference_value = attention_transfer([s.numpy() for s in student], [t.numpy() for t in teacher])
    assert sum(parts) == pytest.approx(reference_value, rel=1e-12)


def test_attention_has_unit_length_per_image() -> None:
    (map_NCHW,) = random_maps((4, 5))
    lengths_N = attention(1e3 * map_NCHW).square().sum(dim=1)
    torch.testing.assert_close(lengths_N, torch.ones(3, dtype=torch.float64))


def test_neither_sign_nor_scale_nor_number_of_channels_matters() -> None:
    student, teacher = random_maps((4, 5), seed=1), random_maps((4, 5), seed=2)
    same = tuple(torch.cat([-7 * map_NCHW, 7 * map_NCHW], dim=1) for map_NCHW in student)
    assert value(same, teacher).item() == pytest.approx(value(student, teacher).item(), rel=1e-12)


def test_a_dead_map_gives_a_finite_loss_and_gradient() -> None:
    student = torch.zeros(3, 4, 5, 5, requires_grad=True)
    loss = value((student,), random_maps((4, 5), dtype=torch.float32))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (
        random_maps((8, 6), seed=1, dtype=torch.bfloat16),
        random_maps((8, 6), seed=2, dtype=torch.bfloat16),
    )
    actual = value(student, teacher)
    expected = attention_transfer([s.double().numpy() for s in student], [t.double().numpy() for t in teacher])
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected, rel=1e-5)


# Pairs --------------------------------------------------------------------------------------------------------------


def test_equal_numbers_of_maps_are_paired_in_order() -> None:
    student, teacher = random_maps((2, 8), (2, 8), (4, 4), seed=1), random_maps((6, 8), (6, 8), (6, 4), seed=2)
    pairs = paired(student, teacher)
    assert all(s is a and t is b for (s, t), a, b in zip(pairs, student, teacher, strict=True))


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_of_two_maps_is_averaged_down(larger: str) -> None:
    (large,), (small,) = random_maps((2, 4), seed=1), random_maps((3, 2), seed=2)
    by_hand = torch.zeros(3, 2, 2, 2, dtype=torch.float64)
    for row in range(2):
        for column in range(2):
            by_hand[:, :, row, column] = large[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(
                dim=(2, 3)
            )
    pair = (large, small) if larger == "student" else (small, large)
    ((s, t),) = paired(pair[:1], pair[1:])
    torch.testing.assert_close(s if larger == "student" else t, by_hand)
    assert (t if larger == "student" else s) is small


def test_unequal_numbers_are_paired_by_size_from_the_deep_end() -> None:
    student = random_maps((2, 8), (4, 4), (4, 2), seed=1)
    for teacher, partners in [
        (random_maps((1, 8), (1, 8), (1, 4), (1, 4), (1, 2), (1, 2), seed=2), [1, 3, 5]),  # two maps a stage
        (random_maps((1, 16), (1, 8), (1, 4), (1, 2), seed=2), [1, 2, 3]),  # an additional first stage
        (random_maps((1, 8), (1, 4), (1, 2), (1, 1), seed=2), [0, 1, 2]),  # an additional last stage
    ]:
        pairs = paired(student, teacher)
        assert [s is map_NCHW for (s, _), map_NCHW in zip(pairs, student, strict=True)] == [True] * 3
        assert [t is teacher[number] for (_, t), number in zip(pairs, partners, strict=True)] == [True] * 3


def test_of_several_maps_a_stage_the_last_one_is_paired() -> None:
    student, teacher = random_maps((2, 8), (2, 8), (4, 4), (4, 4), seed=1), random_maps((3, 8), (3, 4), seed=2)
    pairs = paired(student, teacher)
    assert [(s is a, t is b) for (s, t), a, b in zip(pairs, student[1::2], teacher, strict=True)] == [(True, True)] * 2


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((), random_maps((2, 4)), "the student returns no maps to compare"),
        (random_maps((2, 4)), (), "the teacher returns no maps to compare"),
        (
            random_maps((2, 5), (2, 3)),
            random_maps((2, 4)),
            "the student returns 2 maps (5x5, 3x3) and the teacher 1 (4x4): unequal numbers, and no size in common",
        ),
    ],
)
def test_maps_that_cannot_be_paired_are_refused(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], message: str
) -> None:
    with pytest.raises(ValueError, match="maps") as caught:
        paired(student, teacher)
    assert str(caught.value) == message
