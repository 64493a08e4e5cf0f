"""What may stand where a block has a 3x3 convolution: cheaper ones, by the names of pytorch-moonshine.

Crowley, Gray and Storkey, "Moonshine: Distilling with Cheap Convolutions", NeurIPS 2018.
https://arxiv.org/abs/1711.02613
Follows the authors' code in structure and names. Their types, with other numbers wherever one stands here:

    Conv       the 3x3 convolution itself
    Conv2x2    2x2, dilated so that it reaches as far
    ConvB4     1x1 to a quarter of the output channels, 3x3, 1x1 (a bottleneck)
    DConv      3x3 on each channel alone, 1x1
    DConvG8    3x3 in groups of 8 channels, 1x1
    DConvA8    3x3 in 8 groups, 1x1
    DConvB4    ConvB4 with its 3x3 on each channel alone
    G8B4       ConvB4 with its 3x3 in groups of 8 channels
    A8B4       ConvB4 with its 3x3 in 8 groups
    DConv3D    3x3 on each channel alone, then three weights an output channel, which slide over the input channels and
               whose answers are averaged (before that they fill in_channels times the memory of a map)

The 3x3 has the stride; batch norm and ReLU stand between two convolutions; none has a bias. Their ACDC is left out: it
is another package. Where channels do not fill whole groups, their code rounds (G16 of 24 channels is one group of 24);
here that is an error.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

GROUPS, NUMBER = r"[AG][1-9]\d*", r"[1-9]\d*"


def convolution(name: str, in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
    """What stands for a 3x3 convolution of padding 1: (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride).

    Raises:
        ValueError: No type has this name, or the channels do not suit it.
    """
    for pattern, build in TYPES.items():
        if match := re.fullmatch(pattern, name):
            try:
                return build(*match.groups(), in_channels, out_channels, stride)
            except ValueError as error:
                raise ValueError(
                    f"conv {name} cannot go from {in_channels} to {out_channels} channels: {error}"
                ) from None
    raise ValueError(
        "conv must be Conv, Conv2x2, DConv, DConv3D or, with other numbers, ConvB4, DConvB4, DConvG8, DConvA8, G8B4 "
        f'or A8B4, got "{name}"'
    )


def _whole(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _dilated(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel_size=2, stride=stride, padding=1, dilation=2, bias=False)


def _separable(groups: str | None, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return _sequence(
        convdw=_spatial(groups or "DConv", in_channels, stride),
        bn=nn.BatchNorm2d(in_channels),
        relu=nn.ReLU(),
        conv1x1=nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
    )


def _bottleneck(groups: str, divisor: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    width = out_channels // int(divisor)
    if not width:
        raise ValueError(f"its bottleneck has {out_channels} // {divisor} = 0; B1 to B{out_channels} fit")
    spatial = {"convdw" if groups == "DConv" else "conv": _spatial(groups, width, stride)}
    return _sequence(
        conv1x1_down=nn.Conv2d(in_channels, width, kernel_size=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        **spatial,
        bn2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(),
        conv1x1_up=nn.Conv2d(width, out_channels, kernel_size=1, bias=False),
    )


def _over_channels(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return _sequence(
        convdw=_spatial("DConv", in_channels, stride),
        bn=nn.BatchNorm2d(in_channels),
        relu=nn.ReLU(),
        unflatten=nn.Unflatten(1, (1, in_channels)),
        conv3d=nn.Conv3d(1, out_channels, kernel_size=(3, 1, 1), padding=(1, 0, 0), bias=False),
        mean=MeanOverInputs(),
    )


class MeanOverInputs(nn.Module):
    """The mean over the input channels I: (N, C, I, H, W) to (N, C, H, W)."""

    def forward(self, map_NCIHW: Tensor) -> Tensor:
        return map_NCIHW.mean(dim=2)


def _sequence(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _spatial(groups: str, channels: int, stride: int) -> nn.Module:
    """A 3x3 convolution that keeps the number of channels; `groups` is Conv, DConv, G8 or A8, as in a type's name."""
    return nn.Conv2d(
        channels,
        channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        groups=_num_groups(groups, channels),
        bias=False,
    )


def _num_groups(groups: str, channels: int) -> int:
    if groups in ("Conv", "DConv"):
        return 1 if groups == "Conv" else channels
    kind, number = groups[0], int(groups[1:])
    if channels % number:
        what = f"{number} equal groups" if kind == "A" else f"groups of {number}"
        fitting = ", ".join(f"{kind}{divisor}" for divisor in range(1, channels + 1) if channels % divisor == 0)
        raise ValueError(f"its 3x3 convolution has {channels}, which make no {what}; these fit: {fitting}")
    return channels // number if kind == "G" else number


TYPES: dict[str, Callable[..., nn.Module]] = {  # a pattern of names; its groups are the function's first arguments
    "Conv": _whole,
    "Conv2x2": _dilated,
    f"DConv({GROUPS})?": _separable,
    f"(Conv|DConv|{GROUPS})B({NUMBER})": _bottleneck,
    "DConv3D": _over_channels,
}
