"""Parameter groups: learning rates by depth, one of the classifier's own, no decay of norms and biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from model.registry import OPTIMIZERS
from model.training.parameter_groups import layer_depths, parameter_groups, set_rates
from model.types import OptimizerOptions

Treatment = tuple[float, float]  # learning rate and weight decay


def treatment_by_name(net: nn.Module, groups: Any, others: Sequence[nn.Parameter] = ()) -> dict[str, Treatment]:
    optimizer = set_rates(OPTIMIZERS.build("adamw", groups, learning_rate=0.02, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    names |= {id(parameter): f"other {number}" for number, parameter in enumerate(others)}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_tiny_patch16_224"])
def test_layers_of_resnets_and_transformers_are_those_of_timm(name: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
    assert layer_depths(net) == group_parameters(net, net.group_matcher(coarse=False), reverse=True)


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_rates_and_decay_are_those_of_timm(layer_decay: float) -> None:
    net = timm.create_model("resnet18")
    options = OptimizerOptions(layer_decay=layer_decay, decay_norms_and_biases=False)
    found = treatment_by_name(net, parameter_groups(net, [], None, options))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    expected: dict[str, Any] = {
        names[id(parameter)]: (pytest.approx(0.02 * group["lr_scale"]), group["weight_decay"])
        for group in param_groups_layer_decay(net, weight_decay=0.3, layer_decay=layer_decay)
        for parameter in group["params"]
    }
    assert found == expected


def test_stacks_of_blocks_inside_a_module_are_layers() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 4))
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.norm = nn.LayerNorm(4)

    net = nn.Module()
    net.stem, net.encoder, net.head = nn.Conv2d(3, 4, 1), Encoder(), nn.Linear(4, 2)
    depths = layer_depths(net)
    assert {name: depth for name, depth in depths.items() if not name.endswith("bias")} == {
        "stem.weight": 0,
        "encoder.position": 1,
        "encoder.blocks.0.weight": 1,
        "encoder.blocks.1.weight": 2,
        "encoder.norm.weight": 2,
        "head.weight": 3,
    }


def test_with_defaults_there_are_no_groups() -> None:
    net, others = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), [nn.Parameter(torch.zeros(2))]
    groups = parameter_groups(net, others, None, OptimizerOptions())
    assert [*map(id, groups)] == [*map(id, [*net.parameters(), *others])]


def test_parameters_of_loss_terms_have_the_plain_rate_and_decay() -> None:
    net, others = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), [nn.Parameter(torch.zeros(2))]
    options = OptimizerOptions(layer_decay=0.5, decay_norms_and_biases=False, classifier_learning_rate=0.7)
    assert treatment_by_name(net, parameter_groups(net, others, net[1], options), others) == {
        "0.weight": (0.01, 0.3),
        "0.bias": (0.01, 0.0),
        "1.weight": (0.7, 0.3),
        "1.bias": (0.7, 0.0),
        "other 0": (0.02, 0.3),
    }


def test_frozen_parameters_are_in_no_group() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    groups = parameter_groups(net, [], None, OptimizerOptions(decay_norms_and_biases=False))
    assert treatment_by_name(net, groups) == {"1.weight": (0.02, 0.3), "1.bias": (0.02, 0.0)}


def test_a_rate_for_no_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match="classifier_learning_rate is for a classifier that is one linear layer"):
        parameter_groups(nn.Linear(2, 2), [], None, OptimizerOptions(classifier_learning_rate=0.1))


def test_the_first_group_has_the_rate_closest_to_the_plain_one() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    options = OptimizerOptions(layer_decay=0.5, classifier_learning_rate=0.7)
    optimizer = set_rates(OPTIMIZERS.build("sgd", parameter_groups(net, [], net[2], options), learning_rate=0.2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05, 0.7]
