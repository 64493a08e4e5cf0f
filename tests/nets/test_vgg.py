"""VGG: table 1 of the paper, and the differences of the distillation papers' code."""

import pytest
import torch
from torch import nn

from model.registry import NETS

CONVOLUTIONS = {"vgg8": 5, "vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_named_networks_have_the_convolutions_of_the_paper_s_table(name: str) -> None:
    with torch.device("meta"):
        net = NETS.build(name, 10)
    assert len([module for module in net.modules() if isinstance(module, nn.Conv2d)]) == CONVOLUTIONS[name]
    assert len([module for module in net.modules() if isinstance(module, nn.Linear)]) == 1


@pytest.mark.parametrize(
    ("image_size", "sides"),
    [
        (32, [16, 8, 4, 4]),
        (28, [14, 7, 3, 3]),
        (64, [32, 16, 8, 4]),  # a fourth pool, at this height alone
        (96, [48, 24, 12, 12]),
    ],
)
def test_three_pools_or_four_halve_the_map(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("vgg8", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((128, 256, 512, 512), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.stem.shape == (2, 64, image_size, image_size)
    assert output.embedding.shape == (2, 512)
