"""Automatic augmentation against torchvision's RandAugment and TrivialAugmentWide, one operation at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from model.data.auto_augment import NUM_BINS, POLICIES, RAND_AUGMENT, TRIVIAL_AUGMENT, Policy, auto_augment
from model.types import AutoAugment

THEIRS: dict[AutoAugment, v2.RandAugment | v2.TrivialAugmentWide] = {
    "rand_augment": v2.RandAugment(num_ops=1, magnitude=10),
    "trivial_augment": v2.TrivialAugmentWide(),
}
NAMES = list(v2.RandAugment._AUGMENTATION_SPACE)
IDENTITY = 0
PIXELS = np.random.default_rng(3).integers(40, 200, (5, 30, 24, 3), np.uint8)
# Solarize's thresholds are multiples of 8.5: at one of them, a pixel is inverted or not by float32's rounding.
IMAGES_NHWC = torch.from_numpy(np.where(PIXELS % 17 == 0, PIXELS + 1, PIXELS).astype(np.uint8))


def by_torchvision(policy: AutoAugment, name: str, magnitude_bin: int, sign: int, images_NHWC: Tensor) -> Tensor:
    """One operation as torchvision applies it after its draws."""
    make_magnitudes, is_signed = THEIRS[policy]._AUGMENTATION_SPACE[name]
    magnitudes = make_magnitudes(NUM_BINS, *images_NHWC.shape[1:3])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[magnitude_bin])
    transformed: Tensor = THEIRS[policy]._apply_image_or_video_transform(
        images_NHWC.permute(0, 3, 1, 2).contiguous(),
        name,
        sign * magnitude if is_signed else magnitude,
        interpolation=v2.InterpolationMode.NEAREST,
        fill={Tensor: None},
    )
    return transformed.permute(0, 2, 3, 1)


def alike(one_NHWC: Tensor, other_NHWC: Tensor) -> bool:
    """Up to rounding of a few pixels: torchvision's magnitudes are float32."""
    difference = (one_NHWC.int() - other_NHWC.int()).abs()
    return bool(difference.max() <= 1 and difference.float().mean() < 0.1)


def applied(images_NHWC: Tensor, *numbers: int, policy: Policy = RAND_AUGMENT) -> Tensor:
    choice = sum(number * policy.num_transforms**step for step, number in enumerate(numbers))
    return auto_augment(images_NHWC, policy, np.full(len(images_NHWC), choice))


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_operations_of_rand_augment_are_torchvisions(name: str, channels: int, direction: int) -> None:
    images_NHWC = IMAGES_NHWC[..., :channels]
    ours = applied(images_NHWC, 2 * NAMES.index(name) + direction, IDENTITY)
    assert alike(ours, by_torchvision("rand_augment", name, 10, 1 - 2 * direction, images_NHWC))
    is_changed = name != "Identity" and (name, channels) != ("Color", 1)
    assert alike(images_NHWC, ours) != is_changed


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("magnitude_bin", [0, 1, 7, 16, 29, 30])
@pytest.mark.parametrize("name", NAMES)
def test_operations_of_trivial_augment_are_torchvisions(name: str, magnitude_bin: int, direction: int) -> None:
    number = 2 * len(NAMES) * magnitude_bin + 2 * NAMES.index(name) + direction
    ours = applied(IMAGES_NHWC, number, policy=TRIVIAL_AUGMENT)
    assert alike(ours, by_torchvision("trivial_augment", name, magnitude_bin, 1 - 2 * direction, IMAGES_NHWC))


def test_the_operations_of_both_policies_are_in_torchvisions_order() -> None:
    assert list(v2.TrivialAugmentWide._AUGMENTATION_SPACE) == NAMES


def test_rand_augment_draws_two_operations_from_all() -> None:
    assert (2 * len(NAMES)) ** 2 == RAND_AUGMENT.num_choices


def test_trivial_augment_draws_one_operation_its_direction_and_its_magnitude() -> None:
    assert len(NAMES) * 2 * 31 == TRIVIAL_AUGMENT.num_choices


def test_the_second_operation_is_applied_to_the_firsts_result() -> None:
    shear, solarize = 2 * NAMES.index("ShearX"), 2 * NAMES.index("Solarize")
    one_by_one = applied(applied(IMAGES_NHWC, shear, IDENTITY), solarize, IDENTITY)
    assert torch.equal(applied(IMAGES_NHWC, shear, solarize), one_by_one)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_an_image_does_not_depend_on_the_others_of_its_batch(policy: Policy) -> None:
    choice = np.random.default_rng(0).integers(0, policy.num_choices, 300)
    images_NHWC = IMAGES_NHWC.repeat(60, 1, 1, 1)
    together = auto_augment(images_NHWC, policy, choice)
    alone = [auto_augment(image[None], policy, choice[[number]])[0] for number, image in enumerate(images_NHWC)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_input_is_not_modified(channels: int) -> None:
    images_NHWC = IMAGES_NHWC[..., :channels].contiguous()
    applied(images_NHWC, 2 * NAMES.index("Equalize"), 2 * NAMES.index("Rotate"))
    assert torch.equal(images_NHWC, IMAGES_NHWC[..., :channels])
