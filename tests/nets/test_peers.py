"""Networks side by side: each has the output that it has on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from model.errors import OptionError
from model.nets.peers import Peers
from model.registry import NETS

PAIR: list[dict[str, Any]] = [{"name": "resnet8"}, {"name": "wrn", "depth": 16, "width": 1.0, "conv": "G8B2"}]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def peers(networks: list[dict[str, Any]]) -> nn.Module:
    net: nn.Module = NETS.build("peers", 10, 3, 32, networks=networks)
    return net.eval()


@torch.no_grad()
def test_the_output_is_the_first_ones_and_the_others_are_its_exits() -> None:
    net = peers([*PAIR, {"name": "cnn", "num_channels": 4}])
    output = net(IMAGES)
    alone = [network(IMAGES) for network in net.get_submodule("networks").children()]
    assert torch.equal(output.logits, alone[0].logits)
    assert torch.equal(output.embedding, alone[0].embedding)
    assert [len(maps) for maps in (output.maps, output.preacts)] == [3, 3]
    assert all(torch.equal(early.logits, own.logits) for early, own in zip(output.exits, alone[1:], strict=True))


def test_networks_have_different_initial_weights() -> None:
    one, other = Peers(10, networks=[{"name": "resnet8"}, {"name": "resnet8"}]).networks
    for (name, weight), same in zip(one.named_parameters(), other.parameters(), strict=True):
        if weight.ndim > 1:
            assert not torch.equal(weight, same), name


def test_parameters_are_those_of_all_networks() -> None:
    counted = sum(parameter.numel() for parameter in peers([{"name": "resnet8"}, {"name": "resnet20"}]).parameters())
    # The published counts for 100 classes, without 64 weights and a bias for each of 90 classes.
    assert counted == 83_892 + 278_324 - 2 * 90 * 65


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([{"name": "resnet8"}], "networks must be 2 or more, got 1"),
        ([{"name": "resnet8"}, {"num_channels": 4}], 'networks.1 should be an object with "name", got {"num_chan'),
        ([{"name": "resnet8"}, {"name": "resnet9"}], 'networks.1.name: no network is named "resnet9", did you mean'),
        ([{"name": "cnn", "channels": 4}, {"name": "resnet8"}], "networks.0.channels: unknown option of network cnn"),
        ([{"name": "cnn", "dropout": 2.0}, {"name": "resnet8"}], "networks.0: dropout must be"),
    ],
)
def test_mistakes_name_the_network(networks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        peers(networks)
    assert message in str(caught.value)


def test_a_network_with_exits_of_its_own_is_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="early exits cannot be one of several peers"):
        peers([{"name": "resnet8"}, {"name": "multi_exit_resnet18"}])(torch.empty(2, 3, 32, 32))
