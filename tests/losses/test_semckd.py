"""Semantic calibration: attention over the teacher's stages, and batches of other sizes."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.losses.semckd import SemanticCalibration
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import average_pool, batch_norm, conv2d, relu

Map = NDArray[np.float64]


def reference_embeddings(module: nn.Module, map_NCHW: Map, batch_size: int) -> list[Map]:
    """For every image, two linear layers on its inner products with all images, at unit length."""
    assert isinstance(module, nn.Sequential)
    first, second = cast(nn.Linear, module[0]), cast(nn.Linear, module[2])
    embeddings = []
    for image_CHW in map_NCHW:
        products = [float((image_CHW * other_CHW).sum()) for other_CHW in map_NCHW]
        products = [*products, *[0.0] * batch_size][:batch_size]
        hidden = np.maximum(first.weight.detach().numpy() @ products + first.bias.detach().numpy(), 0)
        out = second.weight.detach().numpy() @ hidden + second.bias.detach().numpy()
        embeddings.append(out / np.linalg.norm(out))
    return embeddings


def reference_value(loss: SemanticCalibration, student: Output, teacher: Output, batch_size: int = 4) -> float:
    student_maps, teacher_maps = (
        [map_NCHW.double().numpy() for map_NCHW in output.maps] for output in (student, teacher)
    )
    queries = [
        reference_embeddings(module, map_NCHW, batch_size)
        for module, map_NCHW in zip(loss.queries, student_maps, strict=True)
    ]
    keys = [
        reference_embeddings(module, map_NCHW, batch_size)
        for module, map_NCHW in zip(loss.keys, teacher_maps, strict=True)
    ]
    total = 0.0
    for i, student_map in enumerate(student_maps):
        distances = []
        for j, teacher_map in enumerate(teacher_maps):
            side = min(student_map.shape[2], teacher_map.shape[2])
            projector = cast(nn.Sequential, loss.projectors[i * len(teacher_maps) + j])
            projected = average_pool(student_map, side, side)
            projected = relu(batch_norm(conv2d(projected, projector[0]), projector[1]))
            projected = relu(batch_norm(conv2d(projected, projector[3]), projector[4]))
            distances.append((conv2d(projected, projector[6]) - average_pool(teacher_map, side, side)) ** 2)
        for image in range(len(student_map)):
            energies = [float(np.exp(queries[i][image] @ key[image])) for key in keys]
            for energy, distance in zip(energies, distances, strict=True):
                total += energy / sum(energies) * distance[image].mean()
    return total / (len(student_maps) * len(student_maps[0]))


def example(*, num_images: int = 4) -> tuple[Output, Output]:
    """Unequal widths, numbers of stages and sizes."""
    student = random_output((2, 4, 4), (3, 2, 2), seed=1, num_images=num_images)
    return student, random_output((2, 8, 8), (4, 4, 4), (5, 2, 2), seed=2, num_images=num_images)


def test_value_follows_the_formula() -> None:
    student, teacher = example()
    loss = prepared(SemanticCalibration(), student, teacher)
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-10)


@pytest.mark.parametrize("num_images", [1, 3, 5])
def test_smaller_batches_are_padded_with_zeros_and_larger_ones_cropped(num_images: int) -> None:
    loss = prepared(SemanticCalibration(), *example())
    student, teacher = example(num_images=num_images)
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-10)


def test_attention_to_the_teacher_s_stages_sums_to_one() -> None:
    student, teacher = example()
    attention_NST = prepared(SemanticCalibration(), student, teacher).attention(student, teacher)
    assert attention_NST.shape == (4, 2, 3)
    torch.testing.assert_close(attention_NST.sum(dim=2), torch.ones(4, 2, dtype=torch.float64))


def test_dead_maps_give_a_finite_loss_and_gradient() -> None:
    student, teacher = example()
    loss = prepared(SemanticCalibration(), student, teacher)
    for embedder in (*loss.queries, *loss.keys):
        for parameter in embedder.parameters():
            parameter.data.zero_()
    dead: tuple[Tensor, ...] = tuple(torch.zeros_like(map_NCHW).requires_grad_() for map_NCHW in student.maps)
    actual = value(loss, student._replace(maps=dead), teacher)
    actual.backward()  # type: ignore[no-untyped-call]
    assert actual.isfinite()
    assert all(map_NCHW.grad is not None and map_NCHW.grad.isfinite().all() for map_NCHW in dead)


def test_adapters_have_the_published_sizes() -> None:
    loss = prepared(SemanticCalibration(), *example(num_images=8))
    parts = (*loss.queries, *loss.keys, *loss.projectors)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    embedder = 8 * 4 + 4 + 4 * 2 + 2  # from the batch to half of it, then to a quarter
    projectors = [  # to twice the teacher's channels, 3x3 among these, to the teacher's; batch norms
        ins * 2 * outs + 9 * (2 * outs) ** 2 + 2 * outs * outs + 2 * 4 * outs for ins in (2, 3) for outs in (2, 4, 5)
    ]
    assert sizes == [*[embedder] * 5, *projectors]


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = random_output((2, 4, 4), (2, 2, 2), seed=1), random_output((2, 2, 2), seed=2)
    assert gradient_is_the_derivative(prepared(SemanticCalibration(), student, teacher), student, teacher)


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    assert trains_and_saves_all(prepared(SemanticCalibration(), student, teacher), student, teacher)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(SemanticCalibration(), student, teacher).float()
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-3)


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher returns no maps to compare"):
        prepared(SemanticCalibration(), random_output((2, 4, 4), seed=1), random_output(seed=2))
