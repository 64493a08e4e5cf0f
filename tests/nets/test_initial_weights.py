"""Every network has the initial weights that its file states: PyTorch's defaults where nothing else is listed."""

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from model.registry import NETS

Layer = TypeVar("Layer", bound=nn.Module)

CIFAR_RESNETS = [
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
]
IMAGENET_RESNETS = ["resnet18_imagenet", "resnet34_imagenet"]
MULTI_EXIT_RESNETS = ["multi_exit_resnet18", "multi_exit_resnet50"]
WIDE_RESNETS = ["wrn", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]
PRE_RESNETS = ["preresnet", "preresnet20", "preresnet56", "preresnet110", "preresnet164"]
DENSE_NETS = ["densenet", "densenet_bc_100_12"]
RESNEXTS = ["resnext", "resnext29_8x64d"]
STEM7_RESNETS = ["resnet20_stem7", "resnet110_stem7"]
VGGS = ["vgg8", "vgg11", "vgg13", "vgg16", "vgg19"]
MOBILE_NETS = ["mobilenetv2"]
FAN_OUT_NORMAL_CONVS = [
    *(*CIFAR_RESNETS, *IMAGENET_RESNETS, *MULTI_EXIT_RESNETS, *WIDE_RESNETS, *PRE_RESNETS, *DENSE_NETS),
    *RESNEXTS,
    *STEM7_RESNETS,
    *VGGS,
    *MOBILE_NETS,
    "peers",
]
FAN_OUT_AND_PYTORCH_CONVS = ["simkd"]  # those of the inner network and those of the projector
WITHOUT_CONVS = ["mlp", "mlp_1200", "mlp_800", "mlp_128"]
PYTORCH_CONVS = sorted({*NETS.names()} - {*FAN_OUT_NORMAL_CONVS, *FAN_OUT_AND_PYTORCH_CONVS, *WITHOUT_CONVS})
WITHOUT_BATCH_NORM = [*WITHOUT_CONVS, "lenet"]
LINEAR_IS_FAN_IN_NORMAL = RESNEXTS
LINEAR_IS_SMALL = VGGS + MOBILE_NETS
LINEAR_BIAS_IS_ZERO = WIDE_RESNETS + RESNEXTS + LINEAR_IS_SMALL
TAIL = 6  # standard errors: no layer exceeds them by chance, of the hundreds that are checked


def layers_of(name: str, kind: type[Layer]) -> list[Layer]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS.build(name, 10)
    return [module for module in net.modules() if isinstance(module, kind)]


def assert_is_normal(weights: Tensor, std: float) -> None:
    count = weights.numel()
    assert weights.mean().item() == pytest.approx(0, abs=TAIL * std / math.sqrt(count))
    assert weights.std().item() == pytest.approx(std, rel=TAIL / math.sqrt(2 * count))
    beyond_two = (weights.abs() > 2 * std).double().mean().item()
    assert beyond_two == pytest.approx(0.0455, abs=TAIL * math.sqrt(0.0455 * 0.9545 / count))


def assert_is_uniform(weights: Tensor, bound: float) -> None:
    count = weights.numel()
    assert weights.abs().max().item() <= bound * (1 + 1e-6)
    assert weights.mean().item() == pytest.approx(0, abs=TAIL * bound / math.sqrt(3 * count))
    # The variance of u^2 is 4/45 for u uniform in [-1, 1].
    assert (weights / bound).square().mean().item() == pytest.approx(1 / 3, abs=TAIL * math.sqrt(4 / 45 / count))


@pytest.mark.parametrize("name", FAN_OUT_NORMAL_CONVS)
def test_convolutions_are_normal_with_variance_two_over_fan_out(name: str) -> None:
    for conv in layers_of(name, nn.Conv2d):
        height, width = conv.kernel_size
        assert_is_normal(conv.weight, math.sqrt(2 / (height * width * conv.out_channels)))


@pytest.mark.parametrize("name", PYTORCH_CONVS)
def test_convolutions_are_uniform_within_one_over_root_fan_in(name: str) -> None:
    convs = layers_of(name, nn.Conv2d)
    assert convs
    for conv in convs:
        height, width = conv.kernel_size
        assert_is_uniform(conv.weight, 1 / math.sqrt(height * width * conv.in_channels / conv.groups))


@pytest.mark.parametrize("name", VGGS)
def test_biases_of_convolutions_start_at_zero(name: str) -> None:
    biases = [conv.bias for conv in layers_of(name, nn.Conv2d)]
    assert not any(bias is None or bias.any() for bias in biases)


@pytest.mark.parametrize("name", NETS.names())
def test_linear_layers_are_drawn_as_their_file_states(name: str) -> None:
    for linear in layers_of(name, nn.Linear):
        if name in LINEAR_IS_FAN_IN_NORMAL:
            assert_is_normal(linear.weight, math.sqrt(2 / linear.in_features))
        elif name in LINEAR_IS_SMALL:
            assert_is_normal(linear.weight, 0.01)
        elif name in STEM7_RESNETS:
            assert_is_uniform(linear.weight, math.sqrt(6 / (linear.in_features + linear.out_features)))
        else:
            assert_is_uniform(linear.weight, 1 / math.sqrt(linear.in_features))
        if name in LINEAR_BIAS_IS_ZERO:
            assert not linear.bias.any()
        else:
            assert_is_uniform(linear.bias, 1 / math.sqrt(linear.in_features))


@pytest.mark.parametrize("name", NETS.names())
def test_batch_norms_start_as_the_identity(name: str) -> None:
    norms = [*layers_of(name, nn.BatchNorm1d), *layers_of(name, nn.BatchNorm2d)]
    assert bool(norms) == (name not in WITHOUT_BATCH_NORM)
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_every_network_is_checked_for_its_convolutions() -> None:
    lists = (PYTORCH_CONVS, FAN_OUT_NORMAL_CONVS, WITHOUT_CONVS, FAN_OUT_AND_PYTORCH_CONVS)
    assert sorted(name for names in lists for name in names) == NETS.names()


@pytest.mark.parametrize("name", WITHOUT_CONVS)
def test_a_network_listed_without_convolutions_has_none(name: str) -> None:
    assert not layers_of(name, nn.Conv2d)
