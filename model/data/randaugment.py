"""Strong augmentation of a batch: two of RandAugment's operations and a blanked square.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical automated data augmentation with a reduced search space", CVPR
Workshops 2020. https://arxiv.org/abs/1909.13719
Operations and their strengths are those of torchvision's RandAugment(2, 10), of 14 kinds. All images of a batch that
drew the same operation go through it together, on the device they lie on: one by one they would take longer than a
small network's step.
Imported when it is needed, for torchvision takes as long to import as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

NUM_ROUNDS = 2
STRENGTH = 10 / 30  # of the strongest that an operation can be

Transform = Callable[[Tensor], Tensor]  # (N, C, H, W) uint8 to the same


def affine(
    height: int, width: int, *, shear_x: float = 0, shear_y: float = 0, right: float = 0, down: float = 0
) -> Transform:
    """Shear is in pixels a pixel, about the corner; the rest in shares of height and width."""
    return partial(
        F.affine,
        angle=0.0,
        translate=[int(right * width), int(down * height)],
        scale=1.0,
        shear=[math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))],
        center=[0.0, 0.0],
    )


def operations(height: int, width: int) -> list[tuple[Transform, Transform]]:
    """The kinds of operation, each in both directions; where it has none, twice the same."""

    def both(made: Callable[[float], Transform], strongest: float) -> tuple[Transform, Transform]:
        return made(strongest * STRENGTH), made(-strongest * STRENGTH)

    def twice(transform: Transform) -> tuple[Transform, Transform]:
        return transform, transform

    return [
        twice(torch.clone),
        both(lambda share: affine(height, width, shear_x=share), 0.3),
        both(lambda share: affine(height, width, shear_y=share), 0.3),
        both(lambda share: affine(height, width, right=share), 150 / 331),
        both(lambda share: affine(height, width, down=share), 150 / 331),
        both(lambda degrees: partial(F.rotate, angle=degrees), 30),
        both(lambda more: partial(F.adjust_brightness, brightness_factor=1 + more), 0.9),
        both(lambda more: partial(F.adjust_saturation, saturation_factor=1 + more), 0.9),
        both(lambda more: partial(F.adjust_contrast, contrast_factor=1 + more), 0.9),
        both(lambda more: partial(F.adjust_sharpness, sharpness_factor=1 + more), 0.9),
        twice(partial(F.posterize, bits=8 - round(4 * STRENGTH))),
        twice(partial(F.solarize, threshold=255 * (1 - STRENGTH))),
        twice(F.autocontrast),
        twice(F.equalize),
    ]


NUM_CHOICES = (2 * len(operations(1, 1))) ** NUM_ROUNDS


def rand_augment(images_NHWC: Tensor, choice_N: NDArray[np.integer]) -> Tensor:
    """RandAugment(2, 10), of uint8 images of 1 or 3 channels.

    Args:
        choice_N: Below NUM_CHOICES: which operations, in which directions.
    """
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()
    directed = [transform for pair in operations(*images_NCHW.shape[2:]) for transform in pair]
    for turn in range(NUM_ROUNDS):
        drawn_N = choice_N // len(directed) ** turn % len(directed)
        for number in np.unique(drawn_N).tolist():
            rows = torch.from_numpy(np.flatnonzero(drawn_N == number)).to(images_NCHW.device)
            images_NCHW[rows] = directed[number](images_NCHW[rows])
    return images_NCHW.permute(0, 2, 3, 1).contiguous()
