"""The wide residual networks: table 1 of the paper, and their features."""

from typing import Any

import pytest
import torch

from model.errors import OptionError
from model.nets.wrn import WideResNet
from model.registry import NETS
from model.types import Output


def output_of(net: WideResNet, *, images: int = 2) -> Output:
    drawn = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    output: Output = net(drawn)
    return output


@pytest.fixture
def net() -> WideResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: WideResNet = NETS.build("wrn_16_1", 10)
    return net


def test_stages_have_k_times_16_32_and_64_channels() -> None:
    with torch.device("meta"):
        output = NETS.build("wrn", 10, depth=16, width=1.5)(torch.empty(2, 3, 32, 32))
    assert [tuple(map_NCHW.shape[1:]) for map_NCHW in output.maps] == [(24, 32, 32), (48, 16, 16), (96, 8, 8)]
    assert output.embedding.shape == (2, 96)


def test_wrn_28_10_has_the_papers_36_5_million_parameters() -> None:
    with torch.device("meta"):
        net = NETS.build("wrn", 10, depth=28, width=10.0)
    assert sum(parameter.numel() for parameter in net.parameters()) == 36_479_194


def test_preact_is_the_map_after_the_next_batch_norm(net: WideResNet) -> None:
    output = output_of(net.eval())
    norms = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
    for map_NCHW, preact_NCHW, norm in zip(output.maps, output.preacts, norms, strict=True):
        assert torch.equal(preact_NCHW, net.get_submodule(norm)(map_NCHW))


@pytest.mark.parametrize("splits", [1, 2, 3, 6])
def test_splits_are_evenly_spaced_and_end_with_the_stage(splits: int) -> None:
    with torch.device("meta"):
        output = NETS.build("wrn", 10, splits=splits)(torch.empty(2, 3, 32, 32))
    expected = [shape for shape in ((32, 32, 32), (64, 16, 16), (128, 8, 8)) for _ in range(splits)]
    assert [tuple(map_NCHW.shape[1:]) for map_NCHW in output.maps] == expected
    assert [tuple(preact_NCHW.shape[1:]) for preact_NCHW in output.preacts] == expected


def split_net(splits: int, block: str = "Basic") -> WideResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: WideResNet = NETS.build("wrn", 10, depth=16, width=1.0, splits=splits, block=block)
    return net.eval()


def test_splits_change_neither_weights_nor_logits() -> None:
    unsplit, halves = split_net(1), split_net(2)
    halves.load_state_dict(unsplit.state_dict())
    unsplit_output, halves_output = output_of(unsplit), output_of(halves)
    assert torch.equal(unsplit_output.logits, halves_output.logits)
    for map_NCHW, half_NCHW in zip(unsplit_output.maps, halves_output.maps[1::2], strict=True):
        assert torch.equal(map_NCHW, half_NCHW)


def test_preact_of_a_split_is_its_map_after_the_next_batch_norm() -> None:
    net = split_net(2)
    output = output_of(net)
    norms = [*(f"block{stage}.layer.{block}.bn1" for stage in (1, 2, 3) for block in (0, 1)), "bn1"][1:]
    for map_NCHW, preact_NCHW, norm in zip(output.maps, output.preacts, norms, strict=True):
        assert torch.equal(preact_NCHW, net.get_submodule(norm)(map_NCHW))


@pytest.mark.parametrize("splits", [1, 2])
def test_maps_of_blocks_that_end_in_a_relu_are_its_output(splits: int) -> None:
    output = output_of(split_net(splits, "Old"))
    for map_NCHW, preact_NCHW in zip(output.maps, output.preacts, strict=True):
        assert (preact_NCHW < 0).any()
        assert torch.equal(map_NCHW, preact_NCHW.relu())


def test_a_training_step_updates_every_statistic_once(net: WideResNet) -> None:
    output_of(net.train())
    counts = [int(buffer) for name, buffer in net.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {1}


def test_dropout_is_off_in_eval() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS.build("wrn_16_1", 10, dropout=0.5)
        assert not torch.equal(output_of(net.train()).logits, output_of(net).logits)
        assert torch.equal(output_of(net.eval()).logits, output_of(net).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth must be 6n.4 .*, got 20"),
        ({"depth": 4}, "depth must be 6n.4 .*, got 4"),
        ({"width": 0.01}, "width must give the first stage at least one channel, got 0.01"),
        ({"dropout": 1.0}, "dropout must be in .*, got 1.0"),
        ({"dropout": 0.3, "block": "Old"}, "dropout is for Basic blocks, .* must be 0 with block Old"),
        ({"splits": 4}, "splits must divide the 6 blocks of a stage, got 4"),
        ({"splits": 0}, "splits must divide the 6 blocks of a stage, got 0"),
        ({"block": "basic"}, "should be 'Basic', 'Bottle' or 'Old', got \"basic\""),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NETS.build("wrn", 10, **options)
