"""Neuron selectivity transfer: the discrepancy of two sets of channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.losses.nst import NeuronSelectivityTransfer, discrepancy
from model.types import Output
from tests.losses.features import gradient_is_the_derivative, in_precision, leaves, random_output, value
from tests.losses.layers import average_pool

Channels = Sequence[NDArray[np.float64]]


def mean_kernel(ones: Channels, others: Channels) -> float:
    total = 0.0
    for student_map in ones:
        for teacher_map in others:
            if student_map.any() and teacher_map.any():  # a dead channel has no direction
                total += (student_map @ teacher_map / np.linalg.norm(student_map) / np.linalg.norm(teacher_map)) ** 2
    return total / (len(ones) * len(others))


def reference_value(student: Output, teacher: Output) -> float:
    """Stage by stage, image by image, channel by channel."""
    total = 0.0
    for student_NCHW, teacher_NCHW in zip(student.maps, teacher.maps, strict=True):
        student_map, teacher_map = student_NCHW.double().numpy(), teacher_NCHW.double().numpy()
        side = min(student_map.shape[2], teacher_map.shape[2])
        student_map, teacher_map = average_pool(student_map, side, side), average_pool(teacher_map, side, side)
        for image in range(len(student_map)):
            s, t = ([channel.ravel() for channel in map_NCHW[image]] for map_NCHW in (student_map, teacher_map))
            total += (mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)) / len(student_map)
    return total


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Unequal widths, and a second stage where the teacher's map is the larger one."""
    student = random_output((4, 4, 4), (3, 2, 2), seed=1, num_images=num_images)
    return student, random_output((6, 4, 4), (5, 4, 4), seed=2, num_images=num_images)


def test_a_worked_example() -> None:
    # The student's two channels are e1 and e2, the teacher's one is e1: 1 + (1 + 0 + 0 + 1) / 4 - 2 * (1 + 0) / 2.
    student, teacher = torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    assert discrepancy(student, teacher).item() == pytest.approx(0.5)


@pytest.mark.parametrize("num_images", [1, 3])
def test_value_follows_the_formula(num_images: int) -> None:
    student, teacher = example(num_images=num_images)
    actual = value(NeuronSelectivityTransfer(), student, teacher).item()
    assert actual == pytest.approx(reference_value(student, teacher), rel=1e-12)


def test_unequal_numbers_of_stages_are_paired() -> None:
    student = random_output((4, 4, 4), (3, 2, 2), seed=1)
    teacher = random_output((6, 8, 8), (6, 4, 4), (5, 2, 2), seed=2)
    actual = value(NeuronSelectivityTransfer(), student, teacher).item()
    assert actual == pytest.approx(reference_value(student, teacher._replace(maps=teacher.maps[1:])), rel=1e-12)


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = example()
    assert gradient_is_the_derivative(NeuronSelectivityTransfer(), student._replace(maps=student.preacts), teacher)


def test_neither_order_nor_sign_nor_scale_nor_number_of_equal_channels_matters() -> None:
    student, teacher = example()
    same = tuple(torch.cat([-3 * map_NCHW.flip(1), 7 * map_NCHW], dim=1) for map_NCHW in student.maps)
    expected = value(NeuronSelectivityTransfer(), student, teacher).item()
    assert value(NeuronSelectivityTransfer(), student._replace(maps=same), teacher).item() == pytest.approx(expected)


def test_nothing_is_better_than_the_teacher_s_own_maps() -> None:
    _, teacher = example()
    student = leaves(teacher)
    least = value(NeuronSelectivityTransfer(), student, teacher)
    least.backward()  # type: ignore[no-untyped-call]
    assert abs(least.item()) < 1e-15
    assert all(map_NCHW.grad is not None and map_NCHW.grad.abs().max() < 1e-12 for map_NCHW in student.maps)
    nearby = teacher._replace(maps=tuple(0.9 * m + 0.1 * m.roll(1, dims=3) for m in teacher.maps))
    assert value(NeuronSelectivityTransfer(), nearby, teacher) > 1e-6


def test_dead_channels_give_a_finite_loss_and_gradient() -> None:
    student = torch.zeros(3, 4, 5, 5, requires_grad=True)
    loss = discrepancy(student, torch.rand(3, 6, 5, 5))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_no_tensor_has_all_pairs_of_channels_at_all_positions() -> None:
    sizes = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    student, teacher = torch.rand(2, 16, 8, 8, requires_grad=True), torch.rand(2, 32, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        discrepancy(student, teacher)
    assert max(sizes) == 2 * 32 * 64  # a map; all pairs of channels at all positions would be 2 * 16 * 32 * 64


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    actual = value(NeuronSelectivityTransfer(), student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reference_value(student, teacher), rel=1e-5)


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher returns no maps to compare"):
        value(NeuronSelectivityTransfer(), random_output((2, 4, 4), seed=1), random_output(seed=2))
