"""ShuffleNet: table 1 and figure 2 of the paper, and the differences of the distillation papers' code."""

import numpy as np
import pytest
import torch

from model.nets.shufflev1 import ShuffleUnit
from model.nets.stages import channel_shuffle
from model.registry import NETS


@pytest.mark.parametrize(("image_size", "sides"), [(32, [16, 8, 4]), (28, [14, 7, 4]), (64, [32, 16, 8])])
def test_stages_halve_the_map_and_double_the_channels(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("shufflev1", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((240, 480, 960), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.stem.shape == (2, 24, image_size, image_size)
    assert output.embedding.shape == (2, 960)


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_shuffle_interleaves_the_groups_channels(groups: int) -> None:
    before = np.random.default_rng(0).standard_normal((2, 12, 3, 2)).astype(np.float32)
    expected = np.empty_like(before)
    for group in range(groups):
        for position in range(12 // groups):
            expected[:, position * groups + group] = before[:, group * (12 // groups) + position]
    assert np.array_equal(channel_shuffle(torch.from_numpy(before), groups).numpy(), expected)


def test_the_pooled_shortcut_averages_over_the_padding() -> None:
    unit = ShuffleUnit(6, 12, stride=2, groups=3).eval()
    pooled = unit(torch.ones(1, 6, 4, 4))[:, 12:]
    corner, edge, inside = 4 / 9, 6 / 9, 1.0
    expected = torch.tensor([[corner, edge], [edge, inside]]).expand(1, 6, 2, 2)
    torch.testing.assert_close(pooled, expected)


def test_only_the_first_unit_s_first_convolution_has_no_groups() -> None:
    with torch.device("meta"):
        net = NETS.build("shufflev1", 10)
    units = [*net.layer1, *net.layer2, *net.layer3]
    assert [unit.conv1.groups for unit in units] == [1] + [3] * 15
    assert [unit.conv3.groups for unit in units] == [3] * 16
