"""ShuffleNet V2: table 5 and figure 3 of the paper, and the differences of the distillation papers' code."""

import pytest
import torch
import torch.nn.functional as F

from model.nets.shufflev2 import ShuffleV2Unit
from model.registry import NETS


@pytest.mark.parametrize(("image_size", "sides"), [(32, [16, 8, 4]), (28, [14, 7, 4]), (64, [32, 16, 8])])
def test_stages_halve_the_map_and_double_the_channels(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("shufflev2", 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, width, side, side) for width, side in zip((116, 232, 464), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.stem.shape == (2, 24, image_size, image_size)
    assert output.embedding.shape == (2, 1024)


def test_a_unit_keeps_the_first_half_of_the_channels_at_even_positions() -> None:
    image = F.relu(torch.randn(1, 8, 4, 4))
    assert torch.equal(ShuffleV2Unit(8).eval()(image)[:, ::2], image[:, :4])
