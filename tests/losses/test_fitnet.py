"""FitNets' regressors: their shapes, and the maps that they are applied to; the values are tested in test_losses.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from model.errors import OptionError
from model.losses.fitnet import FitNet, regressor
from model.losses.objective import Objective
from model.types import Batch, LossContext, Output, TermOptions

BATCH = Batch(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.long), torch.arange(3), torch.zeros(3))


def random_output(*shapes: tuple[int, int, int], seed: int) -> Output:
    """Maps of 3 images for each (channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return Output(torch.zeros(3, 2), torch.zeros(3, 1), maps)


def prepared(student: Output, teacher: Output, **options: Any) -> FitNet:
    loss = FitNet(**options)
    loss.prepare(LossContext(student=student, teacher=teacher, labels=torch.zeros(3), seed=0))
    return loss.double()


def test_stages_are_summed() -> None:
    student, teacher = random_output((2, 4, 4), (3, 2, 2), seed=1), random_output((5, 4, 4), (7, 2, 2), seed=2)
    both = prepared(student, teacher, layers=[1, 2])
    parts = []
    for number, trained_regressor in enumerate(both.regressors):
        single = prepared(student, teacher, layers=[number + 1])
        single.regressors[0].load_state_dict(trained_regressor.state_dict())
        parts.append(single(student, teacher, BATCH).item())
    assert both(student, teacher, BATCH).item() == pytest.approx(sum(parts), rel=1e-12)


@pytest.mark.parametrize(("side", "teacher_side"), [(8, 8), (8, 4), (4, 8), (8, 5), (9, 3)])
def test_regressor_returns_the_teachers_shape(side: int, teacher_side: int) -> None:
    student_map, teacher_map = torch.zeros(2, 3, side, side), torch.zeros(2, 5, teacher_side, teacher_side)
    assert regressor(student_map, teacher_map)(student_map).shape == teacher_map.shape


def test_a_size_without_a_regressor_is_refused() -> None:
    student, teacher = random_output((2, 4, 4), seed=1), random_output((2, 7, 7), seed=2)
    with pytest.raises(ValueError, match="no regressor from a map of 4x4 to one of 7x7"):
        prepared(student, teacher, layers=[1])


def test_a_stage_that_does_not_exist_is_refused() -> None:
    student, teacher = random_output((2, 4, 4), seed=1), random_output((2, 4, 4), (2, 4, 4), seed=2)
    objective = Objective({"fitnet": (FitNet(layers=[2]), TermOptions())})
    with pytest.raises(OptionError, match=r"loss\.fitnet.*layers: the student has stages 1 to 1, got 2"):
        objective.prepare(LossContext(student=student, teacher=teacher, labels=torch.zeros(3), seed=0))


def test_pairs_name_a_stage_of_each_network() -> None:
    student, teacher = random_output((2, 4, 4), (3, 2, 2), seed=1), random_output((5, 4, 4), (7, 2, 2), seed=2)
    loss = prepared(student, teacher, layers=[(2, 1)])
    convolution = loss.regressors[0].get_submodule("0")
    assert isinstance(convolution, nn.ConvTranspose2d)
    assert convolution.weight.shape == (3, 5, 4, 4)
