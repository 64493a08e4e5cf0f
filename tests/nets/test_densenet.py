"""DenseNet-BC: section 3 and table 2 of the paper, and its features."""

import pytest
import torch
from torch import Tensor, nn

from model.errors import OptionError
from model.nets.densenet import DenseLayer, DenseNet
from model.registry import NETS
from model.types import Output


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> DenseNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: DenseNet = NETS.build("densenet", 10, depth=16, growth_rate=4)
    return net


@pytest.mark.parametrize(("image_size", "sides"), [(32, [32, 16, 8]), (28, [28, 14, 7]), (64, [64, 32, 16])])
def test_blocks_add_channels_and_transitions_halve_them_and_the_map(image_size: int, sides: list[int]) -> None:
    with torch.device("meta"):
        output = NETS.build("densenet_bc_100_12", 10)(torch.empty(2, 3, image_size, image_size))
    # 24 of the stem + 16 layers of 12; half of them + 192; half of those + 192
    expected = [(2, channels, side, side) for channels, side in zip((216, 300, 342), sides, strict=True)]
    assert [tuple(map_NCHW.shape) for map_NCHW in output.maps] == expected
    assert output.embedding.shape == (2, 342)


def test_depth_counts_convolutions_and_the_classifier() -> None:
    with torch.device("meta"):
        net = NETS.build("densenet_bc_100_12", 10)
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) == 99


@pytest.mark.parametrize(("depth", "growth_rate", "millions"), [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)])
def test_parameter_count_is_that_of_the_papers_table(depth: int, growth_rate: int, millions: float) -> None:
    with torch.device("meta"):
        net = NETS.build("densenet", 10, depth=depth, growth_rate=growth_rate)
    assert round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 1) == millions


def test_transition_rounds_its_channels_down() -> None:
    with torch.device("meta"):
        maps = NETS.build("densenet", 10, depth=10, growth_rate=5, compression=0.45)(torch.empty(2, 3, 8, 8)).maps
    # 10 + 5 = 15, of which 6.75 stay; 6 + 5 = 11, of which 4.95 stay; 4 + 5 = 9
    assert [map_NCHW.shape[1] for map_NCHW in maps] == [15, 11, 9]


def test_layer_concatenates_growth_rate_channels_to_its_input() -> None:
    layer = DenseLayer(6, 4, dropout=0.0).eval()
    map_NCHW = torch.randn(2, 6, 5, 5)
    result_NCHW = layer(map_NCHW)
    assert result_NCHW.shape == (2, 10, 5, 5)
    assert torch.equal(result_NCHW[:, :6], map_NCHW)


def test_dropout_zeroes_its_share_of_the_channels_that_a_layer_adds() -> None:
    layer = DenseLayer(6, 4, dropout=0.75).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result_NCHW = layer(torch.randn(2, 6, 32, 32))
    assert (result_NCHW[:, 6:] == 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert (result_NCHW[:, :6] != 0).all()


def test_dropout_is_off_in_eval() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS.build("densenet", 10, depth=10, growth_rate=4, dropout=0.5)
        assert not torch.equal(net.train()(images()).logits, net(images()).logits)
        assert torch.equal(net.eval()(images()).logits, net(images()).logits)


def test_preact_is_the_map_after_the_next_batch_norm(net: DenseNet) -> None:
    output: Output = net.eval()(images())
    norms = ("trans1.bn1", "trans2.bn1", "bn")
    for map_NCHW, preact_NCHW, norm in zip(output.maps, output.preacts, norms, strict=True):
        assert torch.equal(preact_NCHW, net.get_submodule(norm)(map_NCHW))


def test_a_training_step_updates_every_statistic_once(net: DenseNet) -> None:
    net.train()(images())
    counts = [int(buffer) for name, buffer in net.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 101}, r"depth must be 6n\+4 .*, got 101"),
        ({"depth": 37}, r"depth must be 6n\+4 .*, got 37"),  # 3n+4: the ancestor let it pass
        ({"depth": 4}, r"depth must be 6n\+4 .*, got 4"),
        ({"growth_rate": 0}, "growth_rate must be at least 1, got 0"),
        ({"compression": 0.0}, "compression must be above 0 and at most 1, got 0.0"),
        ({"compression": 1.5}, "compression must be above 0 and at most 1, got 1.5"),
        ({"compression": 0.001}, "compression must leave at least one channel, 0.001 of 216 leaves none"),
        ({"dropout": 1.0}, "dropout must be in .*, got 1.0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NETS.build("densenet", 10, **options)
