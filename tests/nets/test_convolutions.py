"""The replacements of 3x3 convolutions; tests/evaluation/test_cost.py has parameters and MACs."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.nets.convolutions import convolution
from model.registry import NETS
from model.types import Output

TYPES = [
    *("Conv", "Conv2x2", "ConvB2", "ConvB4", "DConv", "DConvG4", "DConvA8", "DConvB2", "DConv3D"),
    *("G4B2", "G2B4", "A4B2", "A2B4"),
]
BLOCKS = ["Basic", "Bottle", "Old"]


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(conv: str, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return convolution(conv, in_channels, out_channels, stride=stride)


def wide(conv: str, block: str = "Basic", **options: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = NETS.build("wrn", 10, depth=16, width=1.0, conv=conv, block=block, **options)
    return net


@pytest.mark.parametrize("conv", TYPES)
@pytest.mark.parametrize(("stride", "sides"), [(1, (8, 9)), (2, (4, 5))])
def test_map_is_as_large_as_a_3x3_convolution_s(conv: str, stride: int, sides: tuple[int, int]) -> None:
    with torch.no_grad():
        assert seeded(conv, 16, 32, stride)(drawn(2, 16, 8, 9)).shape == (2, 32, *sides)


@pytest.mark.parametrize("conv", TYPES)
def test_the_receptive_field_is_3x3(conv: str) -> None:
    layer = seeded(conv, 64, 64).eval()
    images = drawn(1, 64, 7, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(images)[0, :, 3, 3].sum(), images)
    receptive_field = (gradient[0] != 0).any(dim=0)
    expected = torch.zeros(7, 7, dtype=torch.bool)
    reach = [2, 4] if conv == "Conv2x2" else [2, 3, 4]
    for row in reach:
        expected[row, reach] = True
    assert torch.equal(receptive_field, expected)


@pytest.mark.parametrize("conv", TYPES)
def test_only_batch_norm_has_a_bias(conv: str) -> None:
    kinds = (nn.Conv2d, nn.Conv3d)
    assert all(layer.bias is None for layer in seeded(conv, 16, 16).modules() if isinstance(layer, kinds))


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        ("DConv", (32, 32, 32)),
        ("DConvG4", (32, 32, 8)),
        ("DConvA4", (32, 32, 4)),
        ("ConvB2", (24, 24, 1)),
        ("DConvB2", (24, 24, 24)),
        ("G4B2", (24, 24, 6)),
        ("A4B2", (24, 24, 4)),
    ],
)
def test_the_names_letters_define_the_groups(conv: str, expected: tuple[int, int, int]) -> None:
    (spatial,) = (
        layer
        for layer in seeded(conv, 32, 48).modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    )
    assert (spatial.in_channels, spatial.out_channels, spatial.groups) == expected


def test_dconv3d_slides_three_weights_over_the_channels_and_averages() -> None:
    layer = seeded("DConv3D", 4, 6).eval()
    images = drawn(1, 4, 3, 3)
    weights = layer.get_submodule("conv3d").get_parameter("weight").detach().double().numpy().reshape(6, 3)
    with torch.no_grad():
        output_NCHW = layer(images)
        normed = layer.get_submodule("bn")(layer.get_submodule("convdw")(images)).double().numpy()[0]
    active = np.maximum(normed, 0)
    padded = np.concatenate([np.zeros((1, 3, 3)), active, np.zeros((1, 3, 3))])
    expected = np.zeros((6, 3, 3))
    for output in range(6):
        for channel in range(4):
            for tap in range(3):
                expected[output] += weights[output, tap] * padded[channel + tap] / 4
    np.testing.assert_allclose(output_NCHW[0].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "conv", ["", "conv", "Conv3x3", "ConvB", "ConvB0", "G8", "A8", "B4", "DConvG", "DConvG8B2", "G0B2", "ACDC", "Conv "]
)
def test_the_error_for_an_unknown_type_lists_the_known_ones(conv: str) -> None:
    with pytest.raises(ValueError, match=r"^conv must be Conv, Conv2x2, .* ConvB4, .* or A8B4, got ") as caught:
        convolution(conv, 16, 16)
    assert str(caught.value).endswith(f'"{conv}"')


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        ("G16B4", "the 8 channels of its 3x3 convolution do not divide into groups of 16; possible: G1, G2, G4, G8"),
        ("A16B4", "the 8 channels of its 3x3 convolution do not divide into 16 equal groups; possible: A1, A2, A4, A8"),
        (
            "DConvG32",
            "the 24 channels of its 3x3 convolution do not divide into groups of 32; "
            "possible: G1, G2, G3, G4, G6, G8, G12, G24",
        ),
        (
            "DConvG16",
            "the 24 channels of its 3x3 convolution do not divide into groups of 16; "
            "possible: G1, G2, G3, G4, G6, G8, G12, G24",
        ),
        ("ConvB64", "its bottleneck has 32 // 64 = 0 channels; B1 to B32 fit"),
    ],
)
def test_the_error_for_unsuitable_channels_lists_suitable_numbers(conv: str, reason: str) -> None:
    message = f"conv {conv} cannot have 24 input and 32 output channels: {reason}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolution(conv, 24, 32)


# In a network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("conv", TYPES)
def test_every_parameter_of_a_network_learns(conv: str, block: str) -> None:
    net = wide(conv, block)
    output: Output = net(drawn(4, 3, 16, 16))
    gradients = torch.autograd.grad(output.logits.square().sum(), list(net.parameters()))
    reached = [name for (name, _), gradient in zip(net.named_parameters(), gradients, strict=True) if gradient.any()]
    assert reached == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize("conv", TYPES)
def test_a_convolution_compiles_into_one_graph(conv: str) -> None:
    layer, map_NCHW = seeded(conv, 16, 32, 2).eval(), drawn(2, 16, 8, 8)
    torch.compiler.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(map_NCHW), layer(map_NCHW))


def test_a_network_of_several_maps_a_stage_compiles_into_one_graph() -> None:
    net, batch = wide("A2B2", splits=2).eval(), drawn(2, 3, 16, 16)
    torch.compiler.reset()
    compiled: Callable[[Tensor], Output] = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(batch).logits, net(batch).logits)


@pytest.mark.parametrize("conv", ["DConvG4", "A4B2"])
def test_grouped_convolutions_start_normal_with_variance_two_over_fan_out(conv: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS.build("wrn", 10, depth=40, width=4.0, conv=conv)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:  # fan-out counts all outputs, not those of one group
            std = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=6 / (2 * layer.weight.numel()) ** 0.5)
