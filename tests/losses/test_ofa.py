"""One for all on the branches of the stages: their logits, and the sum over logits and branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.losses.ofa import OneForAll
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import Map, batch_norm, conv2d, relu
from tests.losses.reference import one_for_all


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Three stages of the student; the teacher returns no maps, as one of another architecture may."""
    student = random_output((2, 8, 8), (3, 4, 4), (4, 2, 2), seed=1, num_images=num_images)
    return student, random_output(seed=2, num_images=num_images, width=7)


def depthwise(map_NCHW: Map, module: object) -> Map:
    """Each channel with its own kernel, as a convolution of one channel."""
    assert isinstance(module, nn.Conv2d)
    channels = []
    for number, weight in enumerate(module.weight):
        single = nn.Conv2d(1, 1, 3, stride=module.stride[0], padding=1, bias=False)
        single.weight = nn.Parameter(weight[None])
        channels.append(conv2d(map_NCHW[:, number : number + 1], single))
    return np.concatenate(channels, axis=1)


def reference_logits(branch: nn.Module, map_NCHW: Map) -> Map:
    """Layer by layer: (N, C, H, W) to logits."""
    *layers, _, _, linear = branch.children()
    assert isinstance(linear, nn.Linear)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            map_NCHW = depthwise(map_NCHW, layer) if layer.groups > 1 else conv2d(map_NCHW, layer)
        else:
            map_NCHW = relu(map_NCHW) if isinstance(layer, nn.ReLU) else batch_norm(map_NCHW, layer)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    logits: Map = map_NCHW.mean(axis=(2, 3)) @ weight.T + bias
    return logits


@pytest.mark.parametrize(("layers", "numbers"), [(None, [1, 2, 3]), ([3], [3]), ([1, 2], [1, 2]), ([], [])])
def test_value_is_the_sum_over_logits_and_branches(layers: list[int] | None, numbers: list[int]) -> None:
    student, teacher = example()
    loss = prepared(OneForAll(gamma=1.5, layers=layers), student, teacher)
    labels = [0, 1, 0]
    assert len(loss.branches) == len(numbers)
    branch_logits = [
        reference_logits(branch, student.maps[number - 1].numpy())
        for branch, number in zip(loss.branches, numbers, strict=True)
    ]
    expected = sum(
        one_for_all(logits, teacher.logits.numpy(), labels, gamma=1.5)
        for logits in [student.logits.numpy(), *branch_logits]
    )
    assert value(loss, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = example()
    assert gradient_is_the_derivative(prepared(OneForAll(), student, teacher), student, teacher)


def test_branches_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(OneForAll(), student, teacher), student, teacher)


def test_branches_have_the_published_sizes() -> None:
    """Stage 2 of 4, with 10 channels, where the wider embedding has 7: two halvings, to 20 and to 7 channels."""
    student = random_output((5, 8, 8), (10, 4, 4), (20, 2, 2), (40, 1, 1), seed=1)
    loss = prepared(OneForAll(layers=[2]), student, random_output(seed=2, width=7))
    shapes = [tuple(layer.weight.shape) for layer in loss.branches[0].children() if isinstance(layer, nn.Conv2d)]
    assert shapes == [
        *[(10, 1, 3, 3), (10, 10, 1, 1), (10, 1, 3, 3), (20, 10, 1, 1)],
        *[(20, 1, 3, 3), (20, 20, 1, 1), (20, 1, 3, 3), (7, 20, 1, 1)],
    ]


def test_maps_may_be_bfloat16() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(OneForAll(), student, teacher).float()
    assert value(loss, student, teacher).isfinite()


@pytest.mark.parametrize("layers", [[0], [4]])
def test_a_stage_that_does_not_exist_is_refused(layers: list[int]) -> None:
    student, teacher = example()
    with pytest.raises(ValueError, match=rf"layers: the student has stages 1 to 3, got {layers[0]}"):
        prepared(OneForAll(layers=layers), student, teacher)


def test_a_student_without_maps_has_its_logits_alone() -> None:
    student, teacher = example()
    bare: Any = student._replace(maps=(), preacts=())
    assert not prepared(OneForAll(), bare, teacher).branches
