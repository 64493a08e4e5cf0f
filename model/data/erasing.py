"""Blank rectangles in images: the squares of cutout, and random erasing.

Cutout: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, sec. 3.2.
https://arxiv.org/abs/1708.04552
Random erasing: Zhong, Zheng, Kang, Li and Yang, "Random Erasing Data Augmentation", AAAI 2020, algorithm 1.
https://arxiv.org/abs/1708.04896
Areas, aspect ratios and the number of attempts are those of torchvision's RandomErasing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AREAS, RATIOS = (0.02, 0.33), (0.3, 3.3)  # of a random rectangle, as a share of the image's, and height to width
ATTEMPTS = 10  # to find one that is smaller than the image


class Rectangles(NamedTuple):
    """A rectangle for each image, in pixels."""

    top: NDArray[np.integer]
    left: NDArray[np.integer]
    height: NDArray[np.integer]
    width: NDArray[np.integer]


def random_rectangles(uniform: Callable[[int], NDArray[np.float64]], height: int, width: int) -> Rectangles:
    """A random rectangle within each image; an empty one where no attempt gives one that is smaller than the image.

    Args:
        uniform: Numbers in [0, 1), one for each image, for each random number of an image.
    """
    rectangles, is_found_N = Rectangles(*np.zeros((4, *uniform(0).shape), np.int64)), np.zeros_like(uniform(0), bool)
    for attempt in range(ATTEMPTS):
        area_N, ratio_N, down_N, right_N = (uniform(4 * attempt + number) for number in range(4))
        area_N = height * width * (AREAS[0] + area_N * (AREAS[1] - AREAS[0]))
        ratio_N = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio_N  # uniform in its logarithm
        height_N = np.sqrt(area_N * ratio_N).round().astype(np.int64)
        width_N = np.sqrt(area_N / ratio_N).round().astype(np.int64)
        top_N, left_N = down_N * (height - height_N + 1), right_N * (width - width_N + 1)
        is_new_N = ~is_found_N & (height_N < height) & (width_N < width)
        for values, drawn_N in zip(rectangles, (top_N, left_N, height_N, width_N), strict=True):
            values[is_new_N] = drawn_N[is_new_N].astype(np.int64)
        is_found_N |= is_new_N
        if is_found_N.all():
            break
    return rectangles


def cut_out(images_NCHW: Tensor, centre_N: Tensor, side_N: Tensor) -> Tensor:
    """Erase a square of each image in place; a square may extend over the border.

    Any pixel may be the centre, so squares at the border are smaller.

    Args:
        centre_N: The pixel below and right of the square's centre, numbered row by row.
        side_N: Height and width of the square in pixels; 0 for none.
    """
    half_N, W = side_N // 2, images_NCHW.shape[3]
    return erase(images_NCHW, centre_N // W - half_N, centre_N % W - half_N, side_N, side_N)


def erase(images_NCHW: Tensor, top_N: Tensor, left_N: Tensor, height_N: Tensor, width_N: Tensor) -> Tensor:
    """Set a rectangle of each normalised image to 0, the data set's mean, in place."""
    H, W = images_NCHW.shape[2:]
    rows_NH, columns_NW = _span_mask(top_N, height_N, H), _span_mask(left_N, width_N, W)
    return images_NCHW.masked_fill_((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def _span_mask(start_N: Tensor, length_N: Tensor, side: int) -> Tensor:
    position_L = torch.arange(side, device=start_N.device)
    return (position_L >= start_N[:, None]) & (position_L < (start_N + length_N)[:, None])
