"""LeNet: resolutions and image sizes."""

import pytest
import torch
from torch import Tensor

from model.nets.lenet import LeNet


@pytest.mark.parametrize(("image_size", "sides"), [(32, [14, 5]), (28, [12, 4]), (16, [6, 1]), (17, [6, 1])])
def test_each_stage_loses_a_border_of_2_and_halves_the_map(image_size: int, sides: list[int]) -> None:
    output = LeNet(10, 1, image_size)(torch.zeros(2, 1, image_size, image_size))
    expected = [(2, channels, side, side) for channels, side in zip((6, 16), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 84)


def test_map_is_the_largest_activated_value_of_each_square() -> None:
    net = LeNet(10)
    convolved: list[Tensor] = []
    net.conv1.register_forward_hook(lambda module, inputs, result: convolved.append(result))
    map_NCHW = net(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).maps[0]
    squares = convolved[0].clamp(min=0).reshape(2, 6, 14, 2, 14, 2)
    assert torch.equal(map_NCHW, squares.amax(dim=(3, 5)))


@pytest.mark.parametrize("image_size", [15, 1])
def test_too_small_images_are_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size must be at least 16, .* got {image_size}$"):
        LeNet(10, image_size=image_size)


def test_image_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        LeNet(10, image_size=32)(torch.zeros(2, 3, 64, 64))
