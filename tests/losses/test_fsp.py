"""The flow of solution procedure: its features, and the flow matrices of consecutive ones."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.home import ROOT
from model.losses.fsp import FlowOfSolutionProcedure
from model.types import Output
from tests.losses.features import gradient_is_the_derivative, in_precision, random_output, value

Map = NDArray[np.float64]


def pooled(map_CHW: Map, side: int, pool: str) -> Map:
    channels, height, _ = map_CHW.shape
    step = height // side
    pooled_CHW = np.zeros((channels, side, side))
    for c in range(channels):
        for row in range(side):
            for column in range(side):
                patch = map_CHW[c, step * row : step * (row + 1), step * column : step * (column + 1)]
                pooled_CHW[c, row, column] = patch.mean() if pool == "average" else patch.max()
    return pooled_CHW


def reference_flow(first_CHW: Map, second_DHW: Map, pool: str) -> Map:
    side = min(first_CHW.shape[1], second_DHW.shape[1])
    first_CHW, second_DHW = pooled(first_CHW, side, pool), pooled(second_DHW, side, pool)
    flow_CD = np.zeros((len(first_CHW), len(second_DHW)))
    for c in range(len(first_CHW)):
        for d in range(len(second_DHW)):
            for row in range(side):
                for column in range(side):
                    flow_CD[c, d] += first_CHW[c, row, column] * second_DHW[d, row, column] / side**2
    return flow_CD


def reference_distances(student: list[Tensor], teacher: list[Tensor], pool: str = "average") -> list[float]:
    """The mean over images and entries for every pair of consecutive features."""
    distances = []
    for number in range(len(student) - 1):
        squares = []
        for image in range(len(student[0])):
            flows = [
                reference_flow(features[number][image].numpy(), features[number + 1][image].numpy(), pool)
                for features in (student, teacher)
            ]
            squares += [(a - b) ** 2 for a, b in zip(flows[0].ravel(), flows[1].ravel(), strict=True)]
        distances.append(sum(squares) / len(squares))
    return distances


def features_of(output: Output) -> list[Tensor]:
    assert output.stem is not None
    return [output.stem.double(), *(map_NCHW.double() for map_NCHW in output.maps)]


def two_stages(seed: int, *, num_images: int = 3) -> Output:
    return random_output((2, 4, 4), (3, 2, 2), seed=seed, stem=(2, 4, 4), num_images=num_images)


def test_a_worked_example() -> None:
    # One channel each. Means over positions of the products: (1 * 2 + 2 * 1) / 2 = 2 and (1 * 1 + 1 * 1) / 2 = 1.
    student = Output(
        torch.zeros(1, 1), torch.zeros(1, 1), (torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, 1.0]]]]))
    )
    teacher = Output(torch.zeros(1, 1), torch.zeros(1, 1), (torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2)))
    assert value(FlowOfSolutionProcedure(), student, teacher).item() == 1.0


def test_the_rivals_weight_gives_a_third_of_the_mean_over_pairs() -> None:
    search = json.loads((ROOT / "experiments" / "rivals" / "methods" / "search.json").read_text())
    options = search["parameters"]["method"]["choices"]["fsp"]["loss"]["fsp"]
    weight = options.pop("weight")
    student, teacher = two_stages(1), two_stages(2)
    distances = reference_distances(features_of(student), features_of(teacher))
    expected = sum(distances) / len(distances) / 3
    actual = weight * value(FlowOfSolutionProcedure(**options), student, teacher).item()
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_value_follows_the_formula(pool: Literal["average", "max"]) -> None:
    student, teacher = two_stages(1), two_stages(2)
    expected = sum(reference_distances(features_of(student), features_of(teacher), pool))
    assert value(FlowOfSolutionProcedure(pool=pool), student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_pairs_of_consecutive_features_can_be_averaged() -> None:
    student, teacher = two_stages(1), two_stages(2)
    expected = np.mean(reference_distances(features_of(student), features_of(teacher)))
    actual = value(FlowOfSolutionProcedure(over_pairs="mean"), student, teacher).item()
    assert actual == pytest.approx(expected, rel=1e-12)


def test_the_first_stage_is_the_first_feature_where_the_stem_is_left_out_or_missing() -> None:
    student, teacher = two_stages(1), two_stages(2)
    expected = reference_distances(features_of(student), features_of(teacher))[1]
    without = FlowOfSolutionProcedure(stem=False)
    assert value(without, student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert value(FlowOfSolutionProcedure(), student, teacher._replace(stem=None)).item() == pytest.approx(expected)


def test_stages_can_be_chosen() -> None:
    student, teacher = two_stages(1), two_stages(2)
    s, t = features_of(student), features_of(teacher)
    actual = value(FlowOfSolutionProcedure(layers=[2]), student, teacher).item()
    assert actual == pytest.approx(reference_distances([s[0], s[2]], [t[0], t[2]])[0], rel=1e-12)


def test_unequal_numbers_of_stages_and_sizes_are_compared() -> None:
    student = random_output((2, 8, 8), (3, 4, 4), seed=1)
    teacher = random_output((5, 16, 16), (2, 8, 8), (3, 4, 4), seed=2)
    actual = value(FlowOfSolutionProcedure(), student, teacher).item()
    assert actual == pytest.approx(reference_distances(list(student.maps), list(teacher.maps[1:]))[0], rel=1e-12)
    larger = random_output((2, 8, 8), (3, 8, 8), seed=2)
    actual = value(FlowOfSolutionProcedure(), student, larger).item()
    assert actual == pytest.approx(reference_distances(list(student.maps), list(larger.maps))[0], rel=1e-12)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_gradient_is_the_derivative_of_the_value(pool: Literal["average", "max"]) -> None:
    student = two_stages(1)
    without_ties = student._replace(maps=student.preacts)
    assert gradient_is_the_derivative(FlowOfSolutionProcedure(pool=pool), without_ties, two_stages(2))


def test_it_is_zero_for_equal_features_alone() -> None:
    student, teacher = two_stages(1), two_stages(2)
    assert value(FlowOfSolutionProcedure(), teacher, teacher).item() == 0
    assert value(FlowOfSolutionProcedure(), student, teacher).item() > 0


def test_a_batch_of_one_image_is_like_any_other() -> None:
    student, teacher = two_stages(1, num_images=1), two_stages(2, num_images=1)
    expected = sum(reference_distances(features_of(student), features_of(teacher)))
    assert value(FlowOfSolutionProcedure(), student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_bfloat16_maps_are_compared_in_float32() -> None:
    student, teacher = (in_precision(two_stages(seed), torch.bfloat16) for seed in (1, 2))
    actual = value(FlowOfSolutionProcedure(), student, teacher)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(
        sum(reference_distances(features_of(student), features_of(teacher))), rel=1e-5
    )


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            random_output((4, 4, 4), (3, 2, 2), seed=1, stem=(2, 4, 4)),
            "numbers of channels must be equal: the student's features have 2, 4, 3, the teacher's 2, 2, 3",
        ),
        (
            random_output((2, 4, 4), seed=1),
            "there must be at least two consecutive features, and there is 1",
        ),
    ],
)
def test_features_that_cannot_be_compared_are_refused(student: Output, message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        value(FlowOfSolutionProcedure(), student, two_stages(2))
    assert str(caught.value) == message
