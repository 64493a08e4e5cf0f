"""The overhaul of feature distillation: margins from the teacher's responses, and the partial distance."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.losses.ofd import MarginReLU, OverhaulOfFeatureDistillation, partial_distance
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import average_pool, batch_norm, conv2d

Map = NDArray[np.float64]


def reference_distance(predicted: Map, teacher: Map, margins: list[float]) -> float:
    """The three cases of the authors' rule, value by value: mean over images of the sum."""
    total = 0.0
    N, C, H, W = teacher.shape
    for c in range(C):
        for n in range(N):
            for row in range(H):
                for column in range(W):
                    s, t, m = predicted[n, c, row, column], teacher[n, c, row, column], margins[c]
                    if t > 0 or (t > m and s > t):
                        total += (s - t) ** 2
                    elif t <= m and s > m:
                        total += (s - m) ** 2
    return float(total / N)


def reference_margins(teacher: Map) -> list[float]:
    margins = []
    for c in range(teacher.shape[1]):
        negative = [value for value in teacher[:, c].ravel() if value < 0]
        margins.append(sum(negative) / len(negative) if negative else 0.0)
    return margins


def reference_value(loss: OverhaulOfFeatureDistillation, student: Output, teacher: Output) -> float:
    """With margins from this batch alone; stages are those of both networks in order."""
    total = 0.0
    for number, (student_NCHW, teacher_NCHW) in enumerate(zip(student.preacts, teacher.preacts, strict=True)):
        student_map, teacher_map = student_NCHW.double().numpy(), teacher_NCHW.double().numpy()
        side = min(student_map.shape[2], teacher_map.shape[2])
        student_map, teacher_map = average_pool(student_map, side, side), average_pool(teacher_map, side, side)
        connector = cast(nn.Sequential, loss.connectors[number])
        predicted = batch_norm(conv2d(student_map, connector[0]), connector[1])
        total += reference_distance(predicted, teacher_map, reference_margins(teacher_map)) / 2 ** (
            len(student.preacts) - 1 - number
        )
    return total


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Unequal widths; the teacher's maps are larger, of equal size and smaller."""
    student = random_output((2, 4, 4), (3, 4, 4), (3, 4, 4), seed=1, num_images=num_images)
    return student, random_output((5, 8, 8), (6, 4, 4), (4, 2, 2), seed=2, num_images=num_images)


@pytest.mark.parametrize("num_images", [1, 3])
def test_value_follows_the_formula(num_images: int) -> None:
    student, teacher = example(num_images=num_images)
    loss = prepared(OverhaulOfFeatureDistillation(), student, teacher)
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-10)


def test_predictions_below_an_inactive_target_cost_nothing() -> None:
    target = torch.tensor([-0.5, -0.5, -0.5, 2.0]).view(1, 1, 2, 2)
    predicted = torch.tensor([-9.0, -0.5, 0.5, -1.0]).view(1, 1, 2, 2)
    assert partial_distance(predicted, target).item() == 0 + 0 + 1 + 9


def test_margins_are_the_means_of_negative_responses_in_all_batches() -> None:
    batches = [
        random_output((4, 3, 3), seed=seed, num_images=images).preacts[0] for seed, images in ((1, 5), (2, 2), (3, 5))
    ]
    batches = [map_NCHW + torch.tensor([-1.0, 0.0, 1.0, 9.0])[:, None, None] for map_NCHW in batches]
    margin = MarginReLU(4).double()
    for map_NCHW in batches:
        margin(map_NCHW)
    expected = reference_margins(torch.cat(batches).numpy())
    assert expected[3] == 0  # a channel without negative responses
    np.testing.assert_allclose(margin.margin.numpy(), expected, rtol=1e-12)


def test_responses_are_clamped_at_the_margin() -> None:
    margin = MarginReLU(1)
    cut = margin(torch.tensor([[[[-3.0, -1.0, 0.5, 2.0]]]]))
    assert cut.tolist() == [[[[-2.0, -1.0, 0.5, 2.0]]]]


def test_margins_are_saved_and_resumed() -> None:
    student, teacher = example()
    other_student, other_teacher = (
        random_output(*SHAPES, seed=3),
        random_output((5, 8, 8), (6, 4, 4), (4, 2, 2), seed=4),
    )
    loss, resumed = (prepared(OverhaulOfFeatureDistillation(), student, teacher) for _ in range(2))
    value(loss, student, teacher)
    resumed.load_state_dict(loss.state_dict())
    assert "margins.2.margin" in loss.state_dict()
    assert torch.equal(value(loss, other_student, other_teacher), value(resumed, other_student, other_teacher))
    fresh = prepared(OverhaulOfFeatureDistillation(), student, teacher)
    fresh.connectors.load_state_dict(loss.connectors.state_dict())
    assert not torch.equal(value(loss, other_student, other_teacher), value(fresh, other_student, other_teacher))


SHAPES = ((2, 4, 4), (3, 4, 4), (3, 4, 4))


def test_margins_are_those_of_the_paired_stages() -> None:
    student = random_output((2, 4, 4), (3, 2, 2), seed=1)
    teacher = random_output((5, 8, 8), (5, 4, 4), (4, 2, 2), seed=2)
    shifted = teacher._replace(preacts=tuple(map_NCHW - 3.0 * k for k, map_NCHW in enumerate(teacher.preacts)))
    loss = prepared(OverhaulOfFeatureDistillation(), student, shifted)
    matched = shifted._replace(preacts=shifted.preacts[1:])
    assert value(loss, student, shifted).item() == pytest.approx(reference_value(loss, student, matched), rel=1e-10)
    margins = [cast(Tensor, margin.margin).tolist() for margin in loss.margins]
    expected = [reference_margins(map_NCHW.numpy()) for map_NCHW in matched.preacts]
    for actual, wanted in zip(margins, expected, strict=True):
        assert actual == pytest.approx(wanted, rel=1e-12)


def test_nothing_is_better_than_the_teacher_s_own_maps() -> None:
    target = random_output((3, 4, 4), seed=2).preacts[0]
    predicted = target.clone().requires_grad_()
    least = partial_distance(predicted, target)
    least.backward()  # type: ignore[no-untyped-call]
    assert least.item() == 0
    assert predicted.grad is not None
    assert predicted.grad.abs().max() == 0
    assert partial_distance(target + 0.1, target) > 0


def test_adapters_have_the_published_sizes() -> None:
    loss = prepared(OverhaulOfFeatureDistillation(), *example())
    sizes = [sum(parameter.numel() for parameter in connector.parameters()) for connector in loss.connectors]
    assert sizes == [2 * 5 + 2 * 5, 3 * 6 + 2 * 6, 3 * 4 + 2 * 4]  # a 1x1 convolution without bias, and batch norm


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = random_output((2, 2, 2), (3, 2, 2), seed=1), random_output((3, 4, 4), (2, 2, 2), seed=2)
    loss = prepared(OverhaulOfFeatureDistillation(), student, teacher)
    assert gradient_is_the_derivative(loss, student, teacher)


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(OverhaulOfFeatureDistillation(), student, teacher), student, teacher)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(OverhaulOfFeatureDistillation(), student, teacher).float()
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-4)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_network_that_returns_no_maps_before_the_relu_is_refused(network: str) -> None:
    student = random_output((2, 4, 4), seed=1, preacts=network != "student")
    teacher = random_output((2, 4, 4), seed=2, preacts=network != "teacher")
    with pytest.raises(ValueError, match=f"the {network} does not return its maps before the ReLU"):
        prepared(OverhaulOfFeatureDistillation(), student, teacher)
