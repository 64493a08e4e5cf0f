"""Colour jitter against torchvision's functions, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from model.data.color_jitter import ORDERS, color_jitter, draw_factors

RNG = np.random.default_rng(0)
IMAGES_NHWC = torch.from_numpy(RNG.integers(0, 256, (24, 6, 5, 3), np.uint8))
FACTORS_N4 = RNG.uniform([0.2, 0.2, 0.2, -0.5], [1.8, 1.8, 1.8, 0.5], (24, 4))
FACTORS_N4[0] = [0.0, 0.0, 0.0, 0.0]
FUNCTIONS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def by_torchvision(image_HWC: Tensor, factors: NDArray[np.float64], order: NDArray[np.integer]) -> Tensor:
    image_CHW = image_HWC.permute(2, 0, 1)
    for kind in order:
        image_CHW = FUNCTIONS[kind](image_CHW, float(factors[kind]))
    return image_CHW.permute(1, 2, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_order_of_changes_is_torchvisions(channels: int) -> None:
    images_NHWC = IMAGES_NHWC[..., :channels].contiguous()
    jittered = color_jitter(images_NHWC, FACTORS_N4, np.arange(24))
    expected = torch.stack([by_torchvision(images_NHWC[i], FACTORS_N4[i], ORDERS[i]) for i in range(24)])
    # A sum that is rounded otherwise is cut to the whole number below; hue turns one step into several.
    difference = (jittered.int() - expected.int()).abs()
    assert (difference > 1).float().mean() < 0.01
    assert difference.float().mean() < 0.1
    assert (jittered != images_NHWC).any(dim=(1, 2, 3)).all()


def test_factors_of_one_and_a_shift_of_zero_change_nothing() -> None:
    unchanged = np.tile([1.0, 1.0, 1.0, 0.0], (24, 1))
    assert torch.equal(color_jitter(IMAGES_NHWC, unchanged, np.arange(24)), IMAGES_NHWC)


def test_factors_have_torchvisions_bounds() -> None:
    strengths = [0.4, 1.5, 0.0, 0.2]
    theirs = v2.ColorJitter(*strengths)
    least, most = (draw_factors(strengths, lambda _, share=share: np.full(1, share))[0] for share in (0.0, 1.0))  # type: ignore[misc]
    bounds = [theirs.brightness, theirs.contrast, theirs.saturation or (1.0, 1.0), theirs.hue]
    assert [*zip(least.tolist(), most.tolist(), strict=True)] == bounds


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    order = RNG.permutation(24)
    together = color_jitter(IMAGES_NHWC, FACTORS_N4, order)
    alone = [color_jitter(IMAGES_NHWC[[i]], FACTORS_N4[[i]], order[[i]])[0] for i in range(24)]
    assert torch.equal(together, torch.stack(alone))
