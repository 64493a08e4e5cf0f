"""The ImageNet-style ResNets with a small stem: table 1 of the paper."""

import pytest
import torch

from model.registry import NETS

CONVOLUTIONS = {"resnet18": 17, "resnet34": 33, "resnet50": 49, "resnet101": 100, "resnet152": 151}


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4)])
@pytest.mark.parametrize(("image_size", "sides"), [(32, [32, 16, 8, 4]), (28, [28, 14, 7, 4]), (64, [64, 32, 16, 8])])
def test_each_stage_doubles_the_channels_and_halves_the_map(
    name: str, expansion: int, image_size: int, sides: list[int]
) -> None:
    with torch.device("meta"):
        output = NETS.build(name, 10)(torch.empty(2, 3, image_size, image_size))
    channels = [64 * expansion, 128 * expansion, 256 * expansion, 512 * expansion]
    expected = [(2, width, side, side) for width, side in zip(channels, sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 512 * expansion)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_name_counts_the_weighted_layers_without_projections(name: str) -> None:
    with torch.device("meta"):
        net = NETS.build(name, 10)
    names = [key for key, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert len([key for key in names if "shortcut" not in key]) == CONVOLUTIONS[name]


def test_embedding_is_the_mean_over_positions() -> None:
    output = NETS.build("resnet18", 10).eval()(torch.ones(1, 3, 32, 32))
    slow = [sum(channel.flatten().tolist()) / 16 for channel in output.maps[-1][0]]
    assert output.embedding[0].tolist() == pytest.approx(slow, rel=1e-5)
