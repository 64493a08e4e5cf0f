"""Cheaper replacements for the 3x3 convolutions of blocks, by their names in pytorch-moonshine.

Crowley, Gray and Storkey, "Moonshine: Distilling with Cheap Convolutions", NeurIPS 2018.
https://arxiv.org/abs/1711.02613
Structure and names are those of the authors' code. The types, with any number in place of those below:

    Conv       the 3x3 convolution itself
    Conv2x2    2x2, dilated to the same receptive field
    ConvB4     1x1 to a quarter of the output channels, 3x3, 1x1 (a bottleneck)
    DConv      depthwise 3x3, 1x1
    DConvG8    3x3 in groups of 8 channels, 1x1
    DConvA8    3x3 in 8 groups, 1x1
    DConvB4    ConvB4 with a depthwise 3x3
    G8B4       ConvB4 with its 3x3 in groups of 8 channels
    A8B4       ConvB4 with its 3x3 in 8 groups
    DConv3D    depthwise 3x3, then a kernel of three weights per output channel, which slides over the input channels
               and whose results are averaged (before averaging they take in_channels times the memory of a map)

The 3x3 has the stride; batch norm and ReLU are between two convolutions; none has a bias. Their ACDC is left out: it is
a separate package. Where channels do not divide evenly into groups, their code rounds (G16 of 24 channels is one group
of 24); here it is an error.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

GROUPS, NUMBER = r"[AG][1-9]\d*", r"[1-9]\d*"


def convolution(name: str, in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
    """The replacement of a 3x3 convolution: (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride).

    Raises:
        ValueError: There is no type of this name, or the numbers of channels do not fit it.
    """
    for pattern, build in TYPES.items():
        if match := re.fullmatch(pattern, name):
            try:
                return build(*match.groups(), in_channels, out_channels, stride)
            except ValueError as error:
                raise ValueError(
                    f"conv {name} cannot have {in_channels} input and {out_channels} output channels: {error}"
                ) from None
    raise ValueError(
        "conv must be Conv, Conv2x2, DConv, DConv3D or, with other numbers, ConvB4, DConvB4, DConvG8, DConvA8, G8B4 "
        f'or A8B4, got "{name}"'
    )


def _plain(in_channels: int, out_channels: int, stride: int) -> nn.Module:
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
        raise ValueError(f"its bottleneck has {out_channels} // {divisor} = 0 channels; B1 to B{out_channels} fit")
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


def _sliding_over_channels(in_channels: int, out_channels: int, stride: int) -> nn.Module:
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
        grouping = f"{number} equal groups" if kind == "A" else f"groups of {number}"
        fitting = ", ".join(f"{kind}{divisor}" for divisor in range(1, channels + 1) if channels % divisor == 0)
        raise ValueError(
            f"the {channels} channels of its 3x3 convolution do not divide into {grouping}; possible: {fitting}"
        )
    return channels // number if kind == "G" else number


TYPES: dict[str, Callable[..., nn.Module]] = {  # name pattern, whose groups are the function's first arguments
    "Conv": _plain,
    "Conv2x2": _dilated,
    f"DConv({GROUPS})?": _separable,
    f"(Conv|DConv|{GROUPS})B({NUMBER})": _bottleneck,
    "DConv3D": _sliding_over_channels,
}
