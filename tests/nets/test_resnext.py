"""ResNeXt for small images: section 5.3 of the paper."""

import pytest
import torch
from torch import Tensor, nn

from model.errors import OptionError
from model.registry import NETS


def convolutions(**options: int) -> dict[str, nn.Conv2d]:
    with torch.device("meta"):
        net = NETS.build("resnext", 10, **options)
    return {key: module for key, module in net.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize(("image_size", "sides"), [(32, [32, 16, 8]), (28, [28, 14, 7]), (64, [64, 32, 16])])
def test_later_stages_double_the_channels_and_halve_the_map(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("resnext29_8x64d", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((256, 512, 1024), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 1024)


@pytest.mark.parametrize("depth", [11, 20, 29])
def test_depth_counts_the_weighted_layers_without_shortcuts(depth: int) -> None:
    assert len([key for key in convolutions(depth=depth) if "shortcut" not in key]) == depth - 1


@pytest.mark.parametrize(
    ("cardinality", "base_width", "widths"), [(8, 64, (512, 1024, 2048)), (4, 3, (12, 24, 48)), (1, 5, (5, 10, 20))]
)
def test_grouped_convolutions_double_their_groups_width_from_stage_to_stage(
    cardinality: int, base_width: int, widths: tuple[int, ...]
) -> None:
    convs = convolutions(depth=20, cardinality=cardinality, base_width=base_width)
    for number, width in enumerate(widths, start=1):
        for block in range(2):
            conv = convs[f"stage_{number}.stage_{number}_bottleneck_{block}.conv_conv"]
            assert (conv.in_channels, conv.out_channels, conv.groups) == (width, width, cardinality)


def test_first_block_of_the_later_stages_halves_in_its_3x3_and_in_its_shortcut() -> None:
    strided = {key for key, conv in convolutions(depth=20).items() if conv.stride == (2, 2)}
    assert strided == {
        f"stage_{number}.stage_{number}_bottleneck_0.{conv}"
        for number in (2, 3)
        for conv in ("conv_conv", "shortcut.shortcut_conv")
    }


def test_groups_are_separate() -> None:
    conv = NETS.build("resnext", 10, depth=11, cardinality=2, base_width=3).stage_1[0].conv_conv
    active: list[Tensor] = []
    for first_channel in (0, 3):
        images_NCHW = torch.zeros(1, 6, 4, 4)
        images_NCHW[:, first_channel : first_channel + 3] = 1
        active.append(conv(images_NCHW)[0].flatten(1).any(dim=1))
    assert [group.tolist() for group in active] == [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3]


def test_embedding_is_the_mean_over_positions() -> None:
    net = NETS.build("resnext", 10, depth=11, cardinality=2, base_width=4).eval()
    output = net(torch.ones(1, 3, 16, 16))
    slow = [sum(channel.flatten().tolist()) / 16 for channel in output.maps[-1][0]]
    assert output.embedding[0].tolist() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 28}, r"depth must be 9n\+2 .*, got 28"),
        ({"depth": 2}, r"depth must be 9n\+2 .*, got 2"),
        ({"cardinality": 0}, "cardinality and base_width must be at least 1, got 0 and 64"),
        ({"base_width": -1}, "cardinality and base_width must be at least 1, got 8 and -1"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NETS.build("resnext", 10, **options)
