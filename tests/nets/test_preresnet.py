"""The pre-activation ResNets: depths and widths of the papers, and sums without batch norm or ReLU."""

import pytest
import torch
from torch import Tensor, nn

from model.errors import OptionError
from model.nets.preresnet import PreActBlock, PreResNet
from model.registry import NETS
from model.types import Output

CONVOLUTIONS = {"preresnet20": 19, "preresnet56": 55, "preresnet110": 109, "preresnet164": 163}
SMALLEST = [{"depth": 8, "block": "basic"}, {"depth": 11, "block": "bottleneck"}]


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SMALLEST, ids=["basic", "bottleneck"])
def net(request: pytest.FixtureRequest) -> PreResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: PreResNet = NETS.build("preresnet", 10, **request.param)
    return net


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_name_counts_the_weighted_layers_without_shortcuts(name: str) -> None:
    with torch.device("meta"):
        net = NETS.build(name, 10)
    names = [key for key, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([key for key in names if "downsample" not in key]) == CONVOLUTIONS[name]


@pytest.mark.parametrize(("block", "depth", "expansion"), [("basic", 8, 1), ("bottleneck", 11, 4)])
@pytest.mark.parametrize(("image_size", "sides"), [(32, [32, 16, 8]), (28, [28, 14, 7]), (64, [64, 32, 16])])
def test_later_stages_double_the_channels_and_halve_the_map(
    block: str, depth: int, expansion: int, image_size: int, sides: list[int]
) -> None:
    with torch.device("meta"):
        output = NETS.build("preresnet", 10, depth=depth, block=block)(torch.empty(2, 3, image_size, image_size))
    widths = (16 * expansion, 32 * expansion, 64 * expansion)
    expected = [(2, width, side, side) for width, side in zip(widths, sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 64 * expansion)


@pytest.mark.parametrize(("depth", "expected"), [(14, 180_916), (38, 569_780)])
def test_basic_blocks_have_as_many_parameters_as_those_of_a_wide_network_of_width_1(depth: int, expected: int) -> None:
    with torch.device("meta"):
        net = NETS.build("preresnet", 100, depth=depth, block="basic")
    assert sum(parameter.numel() for parameter in net.parameters()) == expected  # published of wrn_16_1, wrn_40_1


def test_sums_are_the_shortcuts_where_branches_are_zero(net: PreResNet) -> None:
    for name, parameter in net.named_parameters():
        if name.startswith("layer") and name.endswith(("conv1.weight", "conv2.weight", "conv3.weight")):
            nn.init.zeros_(parameter)
    map_NCHW = net.conv1(images())
    for stage, sum_NCHW in zip((net.layer1, net.layer2, net.layer3), net(images()).maps, strict=True):
        map_NCHW = stage[0].get_submodule("downsample")(map_NCHW)
        assert torch.equal(sum_NCHW, map_NCHW)


def test_shortcut_is_a_bare_convolution_where_the_shape_changes_else_nothing() -> None:
    with torch.device("meta"):
        basic, bottleneck = NETS.build("preresnet", 10, depth=14, block="basic"), NETS.build("preresnet", 10, depth=20)
    shapes = [
        {key: tuple(value.shape) for key, value in net.state_dict().items() if "downsample" in key}
        for net in (basic, bottleneck)
    ]
    assert shapes == [
        {"layer2.0.downsample.0.weight": (32, 16, 1, 1), "layer3.0.downsample.0.weight": (64, 32, 1, 1)},
        {
            "layer1.0.downsample.0.weight": (64, 16, 1, 1),
            "layer2.0.downsample.0.weight": (128, 64, 1, 1),
            "layer3.0.downsample.0.weight": (256, 128, 1, 1),
        },
    ]


def test_basic_block_is_twice_batch_norm_relu_and_convolution_beside_its_shortcut() -> None:
    block = PreActBlock(4, 6, stride=2).eval()
    for norm in (block.bn1, block.bn2):  # with initial weights, batch norm is the identity
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    map_NCHW = torch.randn(2, 4, 8, 8)
    branch_NCHW = block.conv1(block.bn1(map_NCHW).clamp(min=0))
    branch_NCHW = block.conv2(block.bn2(branch_NCHW).clamp(min=0))
    assert torch.allclose(block(map_NCHW)[0], block.downsample[0](map_NCHW) + branch_NCHW, atol=1e-6)


def test_preact_is_the_map_after_the_next_batch_norm(net: PreResNet) -> None:
    output: Output = net.eval()(images())
    norms = ("layer2.0.bn1", "layer3.0.bn1", "bn")
    for map_NCHW, preact_NCHW, norm in zip(output.maps, output.preacts, norms, strict=True):
        assert torch.equal(preact_NCHW, net.get_submodule(norm)(map_NCHW))


def test_a_training_step_updates_every_statistic_once(net: PreResNet) -> None:
    net.train()(images())
    counts = [int(buffer) for name, buffer in net.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 112}, r"depth must be 9n\+2 with bottleneck blocks, .*, got 112"),
        ({"depth": 2}, r"depth must be 9n\+2 with bottleneck blocks, .*, got 2"),
        ({"depth": 18, "block": "basic"}, r"depth must be 6n\+2 with basic blocks, .*, got 18"),
        ({"depth": 2, "block": "basic"}, r"depth must be 6n\+2 with basic blocks, .*, got 2"),
        ({"depth": -4, "block": "basic"}, r"depth must be 6n\+2 with basic blocks, .*, got -4"),
        ({"block": "wide"}, "block: should be 'basic' or 'bottleneck', got .wide."),
    ],
)
def test_depth_that_is_no_whole_number_of_blocks_is_refused(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NETS.build("preresnet", 10, **options)
