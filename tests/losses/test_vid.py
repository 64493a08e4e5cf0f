"""Variational information distillation: the prediction, the variances, and that both are trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from model.losses.vid import VariationalInformationDistillation
from model.types import Output
from tests.losses.features import (
    gradient_is_the_derivative,
    in_precision,
    prepared,
    random_output,
    trains_and_saves_all,
    value,
)
from tests.losses.layers import average_pool, conv2d, relu


def reference_value(loss: VariationalInformationDistillation, student: Output, teacher: Output) -> float:
    """Stage by stage and channel by channel; equal numbers of maps, whose sizes divide one another."""
    total = 0.0
    stages = zip(loss.regressors, loss.raw_variances, student.maps, teacher.maps, strict=True)
    for regressor, raw_C, student_NCHW, teacher_NCHW in stages:
        student_map, teacher_map = student_NCHW.double().numpy(), teacher_NCHW.double().numpy()
        side = min(student_map.shape[2], teacher_map.shape[2])
        student_map, teacher_map = average_pool(student_map, side, side), average_pool(teacher_map, side, side)
        assert isinstance(regressor, nn.Sequential)
        predicted = conv2d(relu(conv2d(relu(conv2d(student_map, regressor[0])), regressor[2])), regressor[4])
        terms = []
        for c, raw in enumerate(raw_C.tolist()):
            variance = math.log(1 + math.exp(raw)) + 1e-5
            terms.append((((teacher_map[:, c] - predicted[:, c]) ** 2 / variance + math.log(variance)) / 2).mean())
        total += sum(terms) / len(terms)
    return total


def with_other_variances(loss: VariationalInformationDistillation) -> VariationalInformationDistillation:
    for raw_C in loss.raw_variances:
        raw_C.data.copy_(torch.linspace(-2, 3, len(raw_C)))
    return loss


def example(*, num_images: int = 3) -> tuple[Output, Output]:
    """Unequal widths, and a second stage where the student's map is the larger one."""
    student = random_output((2, 4, 4), (3, 4, 4), seed=1, num_images=num_images)
    return student, random_output((5, 4, 4), (4, 2, 2), seed=2, num_images=num_images)


@pytest.mark.parametrize("num_images", [1, 3])
def test_value_follows_the_formula(num_images: int) -> None:
    student, teacher = example(num_images=num_images)
    loss = with_other_variances(prepared(VariationalInformationDistillation(), student, teacher))
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-12)


@pytest.mark.parametrize("variance", [0.5, 5.0, 1000.0])
def test_variances_start_at_the_initial_variance(variance: float) -> None:
    student, teacher = example()
    loss = prepared(VariationalInformationDistillation(initial_variance=variance), student, teacher)
    for raw_C in loss.raw_variances:
        variance_C = np.log1p(np.exp(-raw_C.detach().numpy())) + raw_C.detach().numpy() + 1e-5
        np.testing.assert_allclose(variance_C, variance, rtol=1e-6)  # they are created in float32


def test_no_variance_falls_below_the_bound() -> None:
    teacher = random_output((2, 2, 2), seed=2)
    loss = prepared(VariationalInformationDistillation(least_variance=0.25), random_output((2, 2, 2), seed=1), teacher)
    for raw_C in loss.raw_variances:
        raw_C.data.fill_(-100.0)
    for parameter in loss.regressors.parameters():
        parameter.data.zero_()
    expected = ((teacher.maps[0].numpy() ** 2) / 0.25 + math.log(0.25)).mean() / 2
    assert value(loss, random_output((2, 2, 2), seed=1), teacher).item() == pytest.approx(expected, rel=1e-9)


def test_variances_learn_the_mean_squared_error_of_their_channels() -> None:
    student, teacher = random_output((2, 4, 4), seed=1, num_images=8), random_output((3, 4, 4), seed=2, num_images=8)
    loss = prepared(VariationalInformationDistillation(), student, teacher)
    for parameter in loss.regressors.parameters():
        parameter.data.zero_()  # the prediction is 0, and no convolution gets a gradient
    optimizer = torch.optim.LBFGS(loss.raw_variances, lr=1.0, max_iter=100, line_search_fn="strong_wolfe")

    def step() -> float:
        optimizer.zero_grad()
        loss_value = value(loss, student, teacher)
        loss_value.backward()  # type: ignore[no-untyped-call]
        return loss_value.item()

    optimizer.step(step)  # type: ignore[no-untyped-call]
    found_C = torch.nn.functional.softplus(loss.raw_variances[0]) + 1e-5
    expected_C = teacher.maps[0].square().mean(dim=(0, 2, 3))
    torch.testing.assert_close(found_C, expected_C, rtol=1e-3, atol=0)


def test_adapters_have_the_published_sizes() -> None:
    loss = prepared(VariationalInformationDistillation(), *example())
    sizes = [sum(parameter.numel() for parameter in regressor.parameters()) for regressor in loss.regressors]
    assert sizes == [2 * 5 + 5 * 5 + 5 * 5, 3 * 4 + 4 * 4 + 4 * 4]  # three 1x1 convolutions without bias
    assert [len(raw_C) for raw_C in loss.raw_variances] == [5, 4]


def test_gradient_is_the_derivative_of_the_value() -> None:
    student, teacher = example()
    loss = prepared(VariationalInformationDistillation(), student, teacher)
    assert gradient_is_the_derivative(loss, student._replace(maps=student.preacts), teacher)  # none of them is 0


def test_all_parameters_are_trained_and_saved() -> None:
    student, teacher = example()
    loss = prepared(VariationalInformationDistillation(), student, teacher)
    assert trains_and_saves_all(loss, student, teacher)
    assert {name.partition(".")[0] for name in loss.state_dict()} == {"regressors", "raw_variances"}


def test_unequal_numbers_of_stages_are_paired() -> None:
    student = random_output((2, 4, 4), (3, 2, 2), seed=1)
    teacher = random_output((5, 8, 8), (5, 4, 4), (4, 2, 2), seed=2)
    loss = prepared(VariationalInformationDistillation(), student, teacher)
    matched = teacher._replace(maps=teacher.maps[1:])
    assert value(loss, student, teacher).item() == pytest.approx(reference_value(loss, student, matched), rel=1e-12)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(output, torch.bfloat16) for output in example())
    loss = prepared(VariationalInformationDistillation(), student, teacher).float()
    actual = value(loss, student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(reference_value(loss, student, teacher), rel=1e-4)


@pytest.mark.parametrize(("initial", "least"), [(1.0, 0.0), (1.0, 1.0), (-1.0, 1e-5)])
def test_impossible_variances_are_refused(initial: float, least: float) -> None:
    with pytest.raises(ValueError, match="least_variance must be positive and below initial_variance"):
        VariationalInformationDistillation(initial_variance=initial, least_variance=least)
