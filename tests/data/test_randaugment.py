"""Strong augmentation against torchvision's RandAugment, one operation at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from model.data.randaugment import NUM_CHOICES, NUM_OPERATIONS, rand_augment

OPERATIONS = v2.RandAugment._AUGMENTATION_SPACE
NAMES = list(OPERATIONS)
IDENTITY = 0
IMAGES_NHWC = torch.from_numpy(np.random.default_rng(3).integers(40, 200, (5, 30, 24, 3), np.uint8))


def by_torchvision(images_NHWC: Tensor) -> list[Tensor]:
    """One operation in 20 trials, in random directions."""
    transform = v2.RandAugment(num_ops=1, magnitude=10)
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [transform(images_NCHW).permute(0, 2, 3, 1) for _ in range(20)]


def alike(one_NHWC: Tensor, other_NHWC: Tensor) -> bool:
    """Up to rounding of a few pixels: torchvision's magnitudes are float32."""
    difference = (one_NHWC.int() - other_NHWC.int()).abs()
    return bool(difference.max() <= 1 and difference.float().mean() < 0.1)


def applied(images_NHWC: Tensor, *numbers: int) -> Tensor:
    num_transforms = round(NUM_CHOICES ** (1 / NUM_OPERATIONS))
    choice = sum(number * num_transforms**step for step, number in enumerate(numbers))
    return rand_augment(images_NHWC, np.full(len(images_NHWC), choice))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_torchvisions(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", {name: OPERATIONS[name]})
    images_NHWC = IMAGES_NHWC[..., :channels]
    kind = NAMES.index(name)
    ours = [applied(images_NHWC, 2 * kind + direction, IDENTITY) for direction in (0, 1)]
    theirs = by_torchvision(images_NHWC)
    assert all(any(alike(image, other) for other in theirs) for image in ours)
    assert all(any(alike(image, other) for other in ours) for image in theirs)
    is_changed = name != "Identity" and (name, channels) != ("Color", 1)
    assert all(alike(images_NHWC, image) != is_changed for image in ours)


def test_two_operations_are_drawn_from_all() -> None:
    assert (2 * len(NAMES)) ** 2 == NUM_CHOICES


def test_the_second_operation_is_applied_to_the_firsts_result() -> None:
    shear, solarize = 2 * NAMES.index("ShearX"), 2 * NAMES.index("Solarize")
    one_by_one = applied(applied(IMAGES_NHWC, shear, IDENTITY), solarize, IDENTITY)
    assert torch.equal(applied(IMAGES_NHWC, shear, solarize), one_by_one)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    choice = np.random.default_rng(0).integers(0, NUM_CHOICES, 300)
    images_NHWC = IMAGES_NHWC.repeat(60, 1, 1, 1)
    together = rand_augment(images_NHWC, choice)
    alone = [rand_augment(image[None], choice[[number]])[0] for number, image in enumerate(images_NHWC)]
    assert torch.equal(together, torch.stack(alone))


def test_the_input_is_not_modified() -> None:
    images_NHWC = IMAGES_NHWC.clone()
    applied(images_NHWC, 2 * NAMES.index("Equalize"), 2 * NAMES.index("Rotate"))
    assert torch.equal(images_NHWC, IMAGES_NHWC)
