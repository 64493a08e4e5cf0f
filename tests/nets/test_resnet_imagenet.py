"""ResNets for images of 224x224, against torchvision's."""

import pytest
import torch
import torchvision
from torch import nn

from model.errors import OptionError
from model.registry import NETS

NAMES = ["resnet18_imagenet", "resnet34_imagenet"]


def torchvision_net(name: str, **options: int) -> nn.Module:
    net: nn.Module = getattr(torchvision.models, name.removesuffix("_imagenet"))(weights=None, **options)
    return net


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_are_torchvision_s(name: str) -> None:
    with torch.device("meta"):
        ours, reference = NETS.build(name, 1000).state_dict(), torchvision_net(name).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [
        (key, value.shape) for key, value in reference.items()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvision_s(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference, images = torchvision_net(name, num_classes=10).eval(), torch.randn(2, 3, 96, 64)
    for buffer_name, buffer in reference.named_buffers():
        if buffer_name.endswith(("mean", "var")):
            buffer.add_(torch.linspace(0.1, 0.5, len(buffer)))
    with torch.device("meta"):
        ours = NETS.build(name, 10).eval()
    ours.load_state_dict(reference.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, reference(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("image_size", "sides"), [(224, (56, 28, 14, 7)), (160, (40, 20, 10, 5))])
def test_stages_halve_a_quarter_of_the_image(name: str, image_size: int, sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        output = NETS.build(name, 10)(torch.empty(2, 3, image_size, image_size))
    expected = [(2, 64 * 2**stage, side, side) for stage, side in enumerate(sides)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 512)


def test_convolutions_of_the_blocks_are_replaced_and_no_others() -> None:
    with torch.device("meta"):
        plain, cheap = NETS.build("resnet18_imagenet", 10), NETS.build("resnet18_imagenet", 10, conv="G8B2")
    replaced = {key for key, _ in plain.named_parameters()} - {key for key, _ in cheap.named_parameters()}
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert replaced == {f"{block}.conv{number}.weight" for block in blocks for number in (1, 2)}
    assert cheap(torch.empty(2, 3, 224, 224, device="meta")).logits.shape == (2, 10)


def test_a_type_that_does_not_fit_the_channels_is_refused() -> None:
    with pytest.raises(OptionError, match="conv G16B8 cannot have 64 input and 64 output channels: the 8 channels"):
        NETS.build("resnet18_imagenet", 10, conv="G16B8")
