"""Automatic augmentation of a batch: random operations on every image, RandAugment or TrivialAugment.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical automated data augmentation with a reduced search space", CVPR
Workshops 2020. https://arxiv.org/abs/1909.13719
Mueller and Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", ICCV 2021.
https://arxiv.org/abs/2103.10158
The 14 operations and their magnitudes are those of torchvision's RandAugment(2, 10) and TrivialAugmentWide(). All
images of a batch that drew the same operation are transformed together, on their device: one by one they would take
longer than a training step of a small network.
Imported only when needed: torchvision takes as long to import as torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..types import AutoAugment
from .preprocess import on_device

NUM_BINS = 31  # of magnitudes, from 0 to an operation's maximum

Transform = Callable[[Tensor], Tensor]  # (N, C, H, W) uint8 to the same


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How many operations an image gets, and how strong they are.

    Args:
        magnitudes: Those that are drawn from, as fractions of an operation's maximum.
        shear: Maximum in pixels per pixel.
        translate: Maximum in pixels of an image side in pixels.
        rotate: Maximum in degrees.
        enhance: Maximal change of brightness, saturation, contrast and sharpness.
        posterize: Maximal number of bits that are removed.
    """

    num_operations: int
    magnitudes: tuple[float, ...]
    shear: float
    translate: Callable[[int, float], float]
    rotate: float
    enhance: float
    posterize: int

    @property
    def num_transforms(self) -> int:
        """All operations in both directions at all magnitudes."""
        return len(self.magnitudes) * NUM_DIRECTED

    @property
    def num_choices(self) -> int:
        return int(self.num_transforms**self.num_operations)

    def transform(self, number: int, height: int, width: int) -> Transform:
        """One of the transforms, numbered magnitude by magnitude."""
        magnitude = self.magnitudes[number // NUM_DIRECTED]
        return operations(self, magnitude, height, width)[number % NUM_DIRECTED]


def affine(*, shear_x: float = 0, shear_y: float = 0, right: float = 0, down: float = 0) -> Transform:
    """Shear is in pixels per pixel, around the upper left corner; translation in pixels, cut to whole ones."""
    return partial(
        F.affine,
        angle=0.0,
        translate=[int(right), int(down)],
        scale=1.0,
        shear=[math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))],
        center=[0.0, 0.0],
    )


@cache
def operations(policy: Policy, magnitude: float, height: int, width: int) -> list[Transform]:
    """Each operation in its positive, then in its negative direction; twice the same where it has no direction."""

    def signed(make: Callable[[float], Transform], maximum: float = 1.0) -> list[Transform]:
        return [make(maximum * magnitude), make(-maximum * magnitude)]

    def unsigned(transform: Transform) -> list[Transform]:
        return [transform, transform]

    return [
        *unsigned(torch.clone),
        *signed(lambda shear: affine(shear_x=shear), policy.shear),
        *signed(lambda shear: affine(shear_y=shear), policy.shear),
        *signed(lambda fraction: affine(right=policy.translate(width, fraction))),
        *signed(lambda fraction: affine(down=policy.translate(height, fraction))),
        *signed(lambda degrees: partial(F.rotate, angle=degrees), policy.rotate),
        *signed(lambda change: partial(F.adjust_brightness, brightness_factor=1 + change), policy.enhance),
        *signed(lambda change: partial(F.adjust_saturation, saturation_factor=1 + change), policy.enhance),
        *signed(lambda change: partial(F.adjust_contrast, contrast_factor=1 + change), policy.enhance),
        *signed(lambda change: partial(F.adjust_sharpness, sharpness_factor=1 + change), policy.enhance),
        *unsigned(partial(F.posterize, bits=8 - round(policy.posterize * magnitude))),
        *unsigned(partial(F.solarize, threshold=255 * (1 - magnitude))),
        *unsigned(F.autocontrast),
        *unsigned(F.equalize),
    ]


NUM_DIRECTED = 2 * 14  # transforms of `operations`
RAND_AUGMENT = Policy(
    num_operations=2,
    magnitudes=(10 / (NUM_BINS - 1),),
    shear=0.3,
    translate=lambda side, fraction: 150 / 331 * fraction * side,
    rotate=30,
    enhance=0.9,
    posterize=4,
)
TRIVIAL_AUGMENT = Policy(
    num_operations=1,
    magnitudes=tuple(number / (NUM_BINS - 1) for number in range(NUM_BINS)),
    shear=0.99,
    translate=lambda _, fraction: 32 * fraction,
    rotate=135,
    enhance=0.99,
    posterize=6,
)
POLICIES: dict[AutoAugment, Policy] = {"rand_augment": RAND_AUGMENT, "trivial_augment": TRIVIAL_AUGMENT}


def auto_augment(images_NHWC: Tensor, policy: Policy, choice_N: NDArray[np.integer]) -> Tensor:
    """uint8 images with 1 or 3 channels after the operations that each has drawn.

    Args:
        choice_N: In [0, policy.num_choices): encodes the operations, their directions and magnitudes.
    """
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    for step in range(policy.num_operations):
        drawn_N = choice_N // policy.num_transforms**step % policy.num_transforms
        for number in np.unique(drawn_N).tolist():
            rows = on_device(np.flatnonzero(drawn_N == number), images_NCHW.device)
            images_NCHW[rows] = policy.transform(number, *images_NCHW.shape[2:])(images_NCHW[rows])
    return images_NCHW.permute(0, 2, 3, 1).contiguous()
