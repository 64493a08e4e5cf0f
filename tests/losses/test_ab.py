"""Activation boundaries: the side of 0 that a unit is on, and the margin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model.losses.ab import ActivationBoundaries
from model.registry import LOSSES
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    leaves,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import batch_norm, conv2d


def reference_value(loss: ActivationBoundaries, student: Output, teacher: Output, margin: float = 1.0) -> float:
    """The authors' two cases, value by value; stages are those of both networks in order."""
    total = 0.0
    for number, (student_NCHW, teacher_NCHW) in enumerate(zip(student.preacts, teacher.preacts, strict=True)):
        student_map, teacher_map = student_NCHW.double().numpy(), teacher_NCHW.double().numpy()
        connector = loss.connectors[number]
        if isinstance(connector, nn.Sequential):
            student_map = batch_norm(conv2d(student_map, connector[0]), connector[1])
        cost = 0.0
        for s, t in zip(student_map.ravel(), teacher_map.ravel(), strict=True):
            if t <= 0 and s > -margin:
                cost += (s + margin) ** 2
            if t > 0 and s <= margin:
                cost += (s - margin) ** 2
        total += cost / len(student_map) * 2.0 ** (number - len(student.preacts) + 1)
    return total


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Stages of equal shape, of unequal widths, and with a larger map of the student."""
    student = random_output((2, 4, 4), (3, 4, 4), (3, 4, 4), seed=1, num_images=num_images)
    return student, random_output((2, 4, 4), (5, 4, 4), (4, 2, 2), seed=2, num_images=num_images)


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_value_follows_the_formula(num_images: int, margin: float) -> None:
    student, teacher = example(num_images=num_images)
    loss = prepared(ActivationBoundaries(margin=margin), student, teacher)
    expected = reference_value(loss, student, teacher, margin)
    assert value(loss, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_the_weight_is_the_published_one() -> None:
    assert LOSSES.common_options("ab", {}).weight == 3 / 1000


def test_maps_of_equal_shape_need_no_connector() -> None:
    student, teacher = random_output((2, 4, 4), (3, 2, 2), seed=1), random_output((2, 4, 4), (3, 2, 2), seed=2)
    assert list(prepared(ActivationBoundaries(), student, teacher).parameters()) == []


def test_units_beyond_the_margin_on_the_teacher_s_side_cost_nothing() -> None:
    teacher = random_output((2, 4, 4), seed=2)
    right = leaves(teacher._replace(preacts=(torch.where(teacher.preacts[0] > 0, 1.0, -1.0).double(),)))
    loss = prepared(ActivationBoundaries(), right, teacher)
    least = value(loss, right, teacher)
    least.backward()  # type: ignore[no-untyped-call]
    assert least.item() == 0
    assert right.preacts[0].grad is not None
    assert right.preacts[0].grad.abs().max() == 0
    assert value(loss, right._replace(preacts=(0.9 * right.preacts[0],)), teacher) > 0


def test_a_unit_of_the_teacher_at_0_is_not_active() -> None:
    teacher = random_output((1, 1, 2), seed=2)._replace(
        preacts=(torch.tensor([[[[0.0, 1e-9]]]]).double().expand(3, 1, 1, 2),)
    )
    student = random_output((1, 1, 2), seed=1)._replace(preacts=(torch.full((3, 1, 1, 2), 0.5).double(),))
    loss = prepared(ActivationBoundaries(), student, teacher)
    assert value(loss, student, teacher).item() == 1.5**2 + 0.5**2


def test_the_size_of_the_teacher_s_activations_does_not_matter() -> None:
    student, teacher = example()
    loss = prepared(ActivationBoundaries(), student, teacher)
    scaled = teacher._replace(preacts=tuple(7 * map_NCHW for map_NCHW in teacher.preacts))
    assert torch.equal(value(loss, student, scaled), value(loss, student, teacher))


def test_unequal_numbers_of_stages_are_paired() -> None:
    student = random_output((2, 4, 4), (3, 2, 2), seed=1)
    teacher = random_output((5, 8, 8), (5, 4, 4), (4, 2, 2), seed=2)
    loss = prepared(ActivationBoundaries(), student, teacher)
    matched = teacher._replace(preacts=teacher.preacts[1:])
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, matched), rel=1e-10)


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = random_output((2, 2, 2), (3, 2, 2), seed=1), random_output((2, 2, 2), (2, 1, 1), seed=2)
    assert gradient_is_the_derivative(prepared(ActivationBoundaries(), student, teacher), student, teacher)


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(ActivationBoundaries(), student, teacher), student, teacher)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(ActivationBoundaries(), student, teacher).float()
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert np.isclose(actual.item(), reference_value(loss, student, teacher), rtol=1e-4)


def test_a_margin_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        ActivationBoundaries(margin=0.0)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_network_that_returns_no_maps_before_the_relu_is_refused(network: str) -> None:
    student = random_output((2, 4, 4), seed=1, preacts=network != "student")
    teacher = random_output((2, 4, 4), seed=2, preacts=network != "teacher")
    with pytest.raises(ValueError, match=f"the {network} does not return its maps before the ReLU"):
        prepared(ActivationBoundaries(), student, teacher)
