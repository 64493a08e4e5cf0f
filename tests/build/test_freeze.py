"""Frozen parts of the student."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from model.build.freeze import freeze, trained_share
from model.errors import OptionError
from model.types import Output


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout())
        self.layer10 = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.classifier = nn.Linear(4, 3)

    def forward(self, images_NCHW: Tensor) -> Output:
        embedding_ND = self.layer10(self.layer1(images_NCHW.flatten(1)))
        return Output(self.classifier(embedding_ND), embedding_ND)


def trained_of(net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ([], {"layer1.0", "layer1.1", "layer10.0", "layer10.1", "classifier"}),
        (["layer1"], {"layer10.0", "layer10.1", "classifier"}),
        (["layer1.0", "classifier"], {"layer1.1", "layer10.0", "layer10.1"}),
        ("all_but_classifier", {"classifier"}),
    ],
)
def test_modules_are_frozen_with_all_that_is_inside(frozen: Any, trained: set[str]) -> None:
    net = Net()
    freeze(net, frozen, (3, 2, 2))
    assert trained_of(net) == {f"{name}.{part}" for name in trained for part in ("weight", "bias")}


def test_a_single_parameter_can_be_frozen() -> None:
    net = Net()
    assert freeze(net, ["classifier.bias"], (3, 2, 2)) == []
    assert trained_of(Net()) - trained_of(net) == {"classifier.bias"}
    assert trained_share(net) == "100 of 103 parameters"  # 52 + 8, 20 + 8, 15


def test_batch_norm_and_dropout_of_frozen_modules_are_returned() -> None:
    net = Net()
    assert freeze(net, ["layer1"], (3, 2, 2)) == [net.layer1]
    assert freeze(net, "all_but_classifier", (3, 2, 2)) == [net]
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["layr1"], 'freeze: the student has no module "layr1", did you mean "layer1"?; it has layer1, layer10, cl'),
        (["layer"], 'freeze: the student has no module "layer", did you mean'),
        (["layer1", "layer10", "classifier"], "freeze: leaves no parameter of the student to train"),
    ],
)
def test_mistakes_are_named(frozen: Any, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        freeze(Net(), frozen, (3, 2, 2))
    assert str(raised.value).startswith(message)


def test_all_but_the_classifier_needs_one() -> None:
    class Scaled(Net):
        def forward(self, images_NCHW: Tensor) -> Output:
            output = super().forward(images_NCHW)
            return output._replace(logits=2 * output.logits)

    with pytest.raises(OptionError, match="the student's logits are not one linear layer's output: name the modules"):
        freeze(Scaled(), "all_but_classifier", (3, 2, 2))
