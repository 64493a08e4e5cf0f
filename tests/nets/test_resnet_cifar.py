"""The 6n+2 ResNets: section 4.2 of the paper."""

import pytest
import torch

from model.nets.resnet_cifar import CifarResNet
from model.registry import NETS

CONVOLUTIONS = {
    "resnet8": 7,
    "resnet8x4": 7,
    "resnet32x4": 31,
    "resnet14": 13,
    "resnet20": 19,
    "resnet32": 31,
    "resnet44": 43,
    "resnet56": 55,
    "resnet110": 109,
}


@pytest.mark.parametrize(("image_size", "sides"), [(32, [32, 16, 8]), (28, [28, 14, 7]), (64, [64, 32, 16])])
def test_later_stages_double_the_channels_and_halve_the_map(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("resnet20", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((16, 32, 64), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 64)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_name_counts_the_weighted_layers_without_projections(name: str) -> None:
    with torch.device("meta"):
        net = NETS.build(name, 10)
    names = [key for key, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert len([key for key in names if "downsample" not in key]) == CONVOLUTIONS[name]


@pytest.mark.parametrize(("depth", "expected"), [(8, 1_233_540), (32, 7_433_860)])
def test_wide_stage_behind_a_narrow_stem_has_the_published_parameter_count(depth: int, expected: int) -> None:
    with torch.device("meta"):
        net = CifarResNet(depth, (32, 64, 128, 256), num_classes=100, in_channels=3)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


@pytest.mark.parametrize("depth", [2, 9, 18, -4])
def test_depth_that_is_not_six_n_plus_two_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 6n\\+2 .* got {depth}$"):
        CifarResNet(depth, (16, 16, 32, 64), num_classes=10, in_channels=3)
