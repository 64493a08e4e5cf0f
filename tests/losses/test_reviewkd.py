"""Knowledge review: the fusions, from deep to shallow, and the hierarchical distance."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.losses.reviewkd import Fusion, KnowledgeReview, hierarchical_distance
from model.registry import LOSSES
from model.types import Output, TermOptions
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import average_pool, batch_norm, conv2d, interpolate_nearest

Map = NDArray[np.float64]


def reference_distance(predicted: Map, teacher: Map) -> float:
    side = teacher.shape[2]
    total, weight, weights = ((predicted - teacher) ** 2).mean(), 1.0, 1.0
    for smaller in (4, 2, 1):
        if smaller < side:
            weight /= 2
            weights += weight
            difference = average_pool(predicted, smaller, smaller) - average_pool(teacher, smaller, smaller)
            total += weight * (difference**2).mean()
    return float(total / weights)


def part(module: nn.Module | None, number: int) -> nn.Module:
    assert isinstance(module, nn.Sequential)
    return module[number]


def reference_value(loss: KnowledgeReview, student: Output, teacher: Output) -> float:
    """From the embedding up to the first stage; stages are those of both networks in order."""
    student_maps = [
        *(map_NCHW.double().numpy() for map_NCHW in student.maps),
        student.embedding.double().numpy()[:, :, None, None],
    ]
    teacher_maps = [
        *(map_NCHW.double().numpy() for map_NCHW in teacher.preacts),
        teacher.embedding.double().numpy()[:, :, None, None],
    ]
    total, deeper = 0.0, None
    for number in reversed(range(len(student_maps))):
        fusion = cast(Fusion, loss.fusions[number])
        fused = batch_norm(conv2d(student_maps[number], part(fusion.inner, 0)), part(fusion.inner, 1))
        if deeper is not None:
            deeper = interpolate_nearest(deeper, *fused.shape[2:])
            gates = 1 / (1 + np.exp(-conv2d(np.concatenate([fused, deeper], axis=1), part(fusion.gates, 0))))
            fused = fused * gates[:, [0]] + deeper * gates[:, [1]]
        fused = interpolate_nearest(fused, *teacher_maps[number].shape[2:])
        predicted = batch_norm(conv2d(fused, part(fusion.outer, 0)), part(fusion.outer, 1))
        total += reference_distance(predicted, teacher_maps[number])
        deeper = fused
    return total


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Unequal widths; the teacher's maps are twice as large as the student's, half as large, and of equal size."""
    student = random_output((2, 4, 4), (3, 4, 4), (3, 2, 2), seed=1, width=4, num_images=num_images)
    return student, random_output((5, 8, 8), (5, 2, 2), (6, 2, 2), seed=2, width=7, num_images=num_images)


@pytest.mark.parametrize("num_images", [2, 3])
def test_value_follows_the_formula(num_images: int) -> None:
    student, teacher = example(num_images=num_images)
    loss = prepared(KnowledgeReview(), student, teacher)
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-10)


@pytest.mark.parametrize(
    ("side", "weights"),
    # Of the full map, then of the map averaged to 4x4, 2x2 and 1x1, as far as these are smaller.
    [(8, (8, 4, 2, 1)), (4, (4, 0, 2, 1)), (2, (2, 0, 0, 1)), (1, (1, 0, 0, 0))],
)
def test_each_scale_counts_half_as_much_as_the_one_before(side: int, weights: tuple[int, ...]) -> None:
    # A difference of 1 everywhere has squares of 1 at every scale; one whose sign changes from row to row has squares
    # of 1 in the full map and of 0 at all other scales.
    rows = torch.tensor([1.0, -1.0]).repeat(4)[:side, None].expand(1, 1, side, side)
    assert hierarchical_distance(torch.ones(1, 1, side, side), torch.zeros(1, 1, side, side)).item() == 1.0
    actual = hierarchical_distance(rows, torch.zeros(1, 1, side, side)).item()
    assert actual == pytest.approx(weights[0] / sum(weights))


def test_the_weight_is_warmed_up_over_twenty_epochs() -> None:
    assert LOSSES.common_options("reviewkd", {}) == TermOptions(weight=1.0, warmup_epochs=20.0)


def test_fused_maps_have_as_many_channels_as_the_embedding_and_512_at_most() -> None:
    for width, channels in ((4, 4), (600, 512)):
        student, teacher = random_output((2, 4, 4), seed=1, width=width), random_output((3, 4, 4), seed=2)
        loss = prepared(KnowledgeReview(), student, teacher)
        convolution = part(cast(Fusion, loss.fusions[0]).inner, 0)
        assert cast(nn.Conv2d, convolution).out_channels == channels


def test_unequal_numbers_of_stages_are_paired() -> None:
    student = random_output((2, 4, 4), (3, 2, 2), seed=1)
    teacher = random_output((5, 8, 8), (5, 4, 4), (6, 2, 2), seed=2)
    loss = prepared(KnowledgeReview(), student, teacher)
    matched = teacher._replace(preacts=teacher.preacts[1:])
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, matched), rel=1e-10)


def test_adapters_have_the_published_sizes() -> None:
    # 1x1 to 4 channels, a gate for each of two maps of 4 channels, 3x3 from 4 channels; batch norms.
    loss = prepared(KnowledgeReview(), *example())
    sizes = [sum(parameter.numel() for parameter in fusion.parameters()) for fusion in loss.fusions]
    gates = 2 * 8 + 2
    stages = [ins * 4 + 8 + gates + outs * 4 * 9 + 2 * outs for ins, outs in ((2, 5), (3, 5), (3, 6))]
    assert sizes == [*stages, 4 * 4 + 8 + 7 * 4 * 9 + 2 * 7]


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = (
        random_output((2, 2, 2), (2, 1, 1), seed=1, width=2),
        random_output((2, 4, 4), (3, 2, 2), seed=2, width=2),
    )
    loss = prepared(KnowledgeReview(), student, teacher)
    assert gradient_is_the_derivative(loss, student, teacher)


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(KnowledgeReview(), student, teacher), student, teacher)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(KnowledgeReview(), student, teacher).float()
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-3)


def test_a_batch_of_one_image_is_refused() -> None:
    student, teacher = example(num_images=1)
    loss = prepared(KnowledgeReview(), student, teacher)
    with pytest.raises(ValueError, match="a batch needs 2 images or more, got 1"):
        value(loss, student, teacher)


def test_a_teacher_that_returns_no_maps_before_the_relu_is_refused() -> None:
    student = random_output((2, 4, 4), seed=1)
    with pytest.raises(ValueError, match="the teacher does not return its maps before the ReLU"):
        prepared(KnowledgeReview(), student, random_output((2, 4, 4), seed=2, preacts=False))
