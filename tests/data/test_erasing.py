"""Random erasing against a slow loop over torchvision's algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.data.erasing import erase, random_rectangles

DRAWS: NDArray[np.float64] = np.random.default_rng(0).random((40, 500))  # ten attempts of four numbers, for each image


def uniform(number: int) -> NDArray[np.float64]:
    numbers_N: NDArray[np.float64] = DRAWS[number]
    return numbers_N


def of_one_image(draws: Iterator[float], height: int, width: int) -> tuple[int, int, int, int]:
    """As RandomErasing.make_params of torchvision, with these random numbers in place of a generator's."""
    for _ in range(10):
        area = height * width * (0.02 + next(draws) * (0.33 - 0.02))
        ratio = math.exp(math.log(0.3) + next(draws) * (math.log(3.3) - math.log(0.3)))
        down, right = next(draws), next(draws)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    return 0, 0, 0, 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 20), (3, 50), (1, 9)])
def test_rectangles_are_drawn_as_torchvision_does(height: int, width: int) -> None:
    rectangles = random_rectangles(uniform, height, width)
    expected = [of_one_image(iter(DRAWS[:, number].tolist()), height, width) for number in range(500)]
    assert np.stack(rectangles, axis=1).tolist() == [list(rectangle) for rectangle in expected]


def test_rectangles_lie_within_their_image() -> None:
    top, left, height, width = random_rectangles(uniform, 10, 14)
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (10, 14)
    assert 0.02 < (height * width).mean() / 140 < 0.33


def test_a_rectangle_is_set_to_zero_and_nothing_else() -> None:
    images = torch.ones(2, 3, 5, 6)
    rows = (torch.tensor(values) for values in ([1, 0], [2, 0], [3, 0], [4, 6]))
    expected = images.clone()
    expected[0, :, 1:4, 2:6] = 0
    assert torch.equal(erase(images, *rows), expected)  # the second has no height
