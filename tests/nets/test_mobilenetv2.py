"""MobileNetV2: table 2 of the paper at half width, and the differences of the distillation papers' code."""

import pytest
import torch
from torch import Tensor

from model.nets.mobilenetv2 import InvertedResidual
from model.registry import NETS


@pytest.mark.parametrize(("image_size", "sides"), [(32, [16, 8, 4, 2]), (28, [14, 7, 4, 2]), (64, [32, 16, 8, 4])])
def test_stages_halve_the_stems_resolution(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("mobilenetv2", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((12, 16, 48, 160), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.stem.shape == (2, 16, sides[0], sides[0])
    assert output.embedding.shape == (2, 1280)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "added"), [(8, 8, 1, True), (8, 8, 2, False), (8, 12, 1, False)]
)
def test_a_unit_adds_its_input_where_the_shape_is_unchanged(
    in_channels: int, out_channels: int, stride: int, added: bool
) -> None:
    unit = InvertedResidual(in_channels, out_channels, factor=6, stride=stride).eval()
    torch.nn.init.zeros_(unit.conv[6].weight)  # type: ignore[arg-type]
    image = torch.randn(1, in_channels, 4, 4)
    output: Tensor = unit(image)
    assert torch.equal(output, image) if added else not output.any()
