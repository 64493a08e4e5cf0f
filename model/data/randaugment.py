"""Strong augmentation of a batch: two of RandAugment's operations and a blanked square.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical automated data augmentation with a reduced search space", CVPR
Workshops 2020. https://arxiv.org/abs/1909.13719
The 14 operations and their magnitudes are those of torchvision's RandAugment(2, 10). All images of a batch that drew
the same operation are transformed together, on their device: one by one they would take longer than a training step of
a small network.
Imported only when needed: torchvision takes as long to import as torch.
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

from .base import on_device

NUM_OPERATIONS = 2  # per image
MAGNITUDE = 10 / 30  # as a fraction of an operation's maximum

Transform = Callable[[Tensor], Tensor]  # (N, C, H, W) uint8 to the same


def affine(
    height: int, width: int, *, shear_x: float = 0, shear_y: float = 0, right: float = 0, down: float = 0
) -> Transform:
    """Shear is in pixels per pixel, around the upper left corner; translation in fractions of height and width."""
    return partial(
        F.affine,
        angle=0.0,
        translate=[int(right * width), int(down * height)],
        scale=1.0,
        shear=[math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))],
        center=[0.0, 0.0],
    )


def operations(height: int, width: int) -> list[tuple[Transform, Transform]]:
    """Each operation in its positive and its negative direction; twice the same where it has no direction."""

    def signed(make: Callable[[float], Transform], maximum: float) -> tuple[Transform, Transform]:
        return make(maximum * MAGNITUDE), make(-maximum * MAGNITUDE)

    def unsigned(transform: Transform) -> tuple[Transform, Transform]:
        return transform, transform

    return [
        unsigned(torch.clone),
        signed(lambda shear: affine(height, width, shear_x=shear), 0.3),
        signed(lambda shear: affine(height, width, shear_y=shear), 0.3),
        signed(lambda fraction: affine(height, width, right=fraction), 150 / 331),
        signed(lambda fraction: affine(height, width, down=fraction), 150 / 331),
        signed(lambda degrees: partial(F.rotate, angle=degrees), 30),
        signed(lambda change: partial(F.adjust_brightness, brightness_factor=1 + change), 0.9),
        signed(lambda change: partial(F.adjust_saturation, saturation_factor=1 + change), 0.9),
        signed(lambda change: partial(F.adjust_contrast, contrast_factor=1 + change), 0.9),
        signed(lambda change: partial(F.adjust_sharpness, sharpness_factor=1 + change), 0.9),
        unsigned(partial(F.posterize, bits=8 - round(4 * MAGNITUDE))),
        unsigned(partial(F.solarize, threshold=255 * (1 - MAGNITUDE))),
        unsigned(F.autocontrast),
        unsigned(F.equalize),
    ]


NUM_CHOICES = (2 * len(operations(1, 1))) ** NUM_OPERATIONS


def rand_augment(images_NHWC: Tensor, choice_N: NDArray[np.integer]) -> Tensor:
    """RandAugment(2, 10) of uint8 images with 1 or 3 channels.

    Args:
        choice_N: In [0, NUM_CHOICES): encodes the operations and their directions.
    """
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()
    transforms = [transform for pair in operations(*images_NCHW.shape[2:]) for transform in pair]
    for step in range(NUM_OPERATIONS):
        drawn_N = choice_N // len(transforms) ** step % len(transforms)
        for number in np.unique(drawn_N).tolist():
            rows = on_device(np.flatnonzero(drawn_N == number), images_NCHW.device)
            images_NCHW[rows] = transforms[number](images_NCHW[rows])
    return images_NCHW.permute(0, 2, 3, 1).contiguous()
