"""Random changes of brightness, contrast, saturation and hue, each image's in an order of its own.

The operations are those of torchvision's ColorJitter, whose factors are the same for all images of a call. Here images
with different factors are changed together, as one by one they would take longer than a training step of a small
network; only hue is changed one by one.
Imported only when needed: torchvision takes as long to import as torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .preprocess import on_device

ORDERS = np.array([*permutations(range(4))])  # of brightness, contrast, saturation, hue


def draw_factors(strengths: Sequence[float], uniform: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Factors of brightness, contrast and saturation, and shifts of hue: (N, 4).

    Args:
        uniform: Numbers in [0, 1), one for each image, for each of the four.
    """
    least = [max(0.0, 1 - strength) for strength in strengths[:3]] + [-strengths[3]]
    most = [1 + strength for strength in strengths[:3]] + [strengths[3]]
    drawn_N4 = np.stack([uniform(kind) for kind in range(4)], axis=1)
    factors_N4: NDArray[np.float64] = least + drawn_N4 * np.subtract(most, least)
    return factors_N4


def color_jitter(images_NHWC: Tensor, factors_N4: NDArray[np.float64], order_N: NDArray[np.integer]) -> Tensor:
    """uint8 images with 1 or 3 channels after the four changes.

    Args:
        factors_N4: As `draw_factors` returns them.
        order_N: The row of `ORDERS` by which each image's changes are ordered.
    """
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    for kinds_N in ORDERS[order_N].T:
        for kind, change in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)):
            selected = np.flatnonzero((kinds_N == kind) & (factors_N4[:, kind] != (0 if kind == 3 else 1)))
            if len(selected):
                rows = on_device(selected, images_NCHW.device)
                images_NCHW[rows] = change(images_NCHW[rows], factors_N4[selected, kind])
    return images_NCHW.permute(0, 2, 3, 1).contiguous()


def adjust_brightness(images_NCHW: Tensor, factor_N: NDArray[np.float64]) -> Tensor:
    return blend(images_NCHW, torch.zeros((), device=images_NCHW.device), factor_N)


def adjust_contrast(images_NCHW: Tensor, factor_N: NDArray[np.float64]) -> Tensor:
    return blend(images_NCHW, grey(images_NCHW).mean(dim=(1, 2, 3), keepdim=True), factor_N)


def adjust_saturation(images_NCHW: Tensor, factor_N: NDArray[np.float64]) -> Tensor:
    return blend(images_NCHW, grey(images_NCHW), factor_N) if images_NCHW.shape[1] == 3 else images_NCHW


def adjust_hue(images_NCHW: Tensor, shift_N: NDArray[np.float64]) -> Tensor:
    pairs = zip(images_NCHW, shift_N.tolist(), strict=True)
    return torch.stack([F.adjust_hue(image_CHW, hue_factor=shift) for image_CHW, shift in pairs])


def grey(images_NCHW: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, as floats: (N, 1, H, W)."""
    return (F.rgb_to_grayscale(images_NCHW) if images_NCHW.shape[1] == 3 else images_NCHW).float()


def blend(images_NCHW: Tensor, other: Tensor, factor_N: NDArray[np.float64]) -> Tensor:
    """factor * image + (1 - factor) * other, cut to whole numbers from 0 to 255."""
    factor_N111 = on_device(factor_N.astype(np.float32), images_NCHW.device)[:, None, None, None]
    return (factor_N111 * images_NCHW + (1 - factor_N111) * other).clamp_(0, 255).to(images_NCHW.dtype)
