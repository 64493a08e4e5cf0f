"""ShuffleNet for small images: grouped 1x1 convolutions, and a channel shuffle between the groups.

Zhang, Zhou, Lin and Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
CVPR 2018. https://arxiv.org/abs/1707.01083
Structure and names are those of `ShuffleV1` in HobbitLong's RepDistiller, so its teachers load: the paper's widths for
three groups, after a 1x1 stem of stride 1 without pool; unlike the paper's, its units have a ReLU after the depthwise
convolution.
The last pool is global, which at 32x32 equals the original's 4x4 pool, so other image sizes work too.
Initial weights are PyTorch's defaults, as in that code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .stages import channel_shuffle, forward_stages

GROUPS = 3


class ShuffleNet(nn.Module):
    """A stem of 24 channels and three stages of 240, 480 and 960; each stage halves the resolution."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 24, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = stage(4, 24, 240, first_groups=1)  # 24 channels are too few for groups
        self.layer2 = stage(8, 240, 480, first_groups=GROUPS)
        self.layer3 = stage(4, 480, 960, first_groups=GROUPS)
        self.linear = nn.Linear(960, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.linear(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(num_units: int, in_channels: int, out_channels: int, *, first_groups: int) -> nn.Sequential:
    """Units of one resolution; the first one has the stride, and concatenates its pooled input to its branch."""
    first = ShuffleUnit(in_channels, out_channels - in_channels, stride=2, groups=first_groups)
    rest = [ShuffleUnit(out_channels, out_channels, stride=1, groups=GROUPS) for _ in range(num_units - 1)]
    return nn.Sequential(first, *rest)


class ShuffleUnit(nn.Module):
    """A depthwise convolution between two grouped 1x1 ones, and a shortcut; returns the result before its ReLU.

    Args:
        out_channels: Channels of the branch.
        stride: 1 to add the input to the branch, 2 to concatenate the pooled input.
        groups: Groups of the first 1x1 convolution, and of the shuffle after it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.groups, self.stride = groups, stride

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW: Tensor = channel_shuffle(F.relu(self.bn1(self.conv1(map_NCHW))), self.groups)
        branch_NCHW = F.relu(self.bn2(self.conv2(branch_NCHW)))
        branch_NCHW = self.bn3(self.conv3(branch_NCHW))
        if self.stride == 1:
            return branch_NCHW + map_NCHW
        pooled_NCHW = F.avg_pool2d(map_NCHW, kernel_size=3, stride=2, padding=1)  # averages include the zero padding
        return torch.cat([branch_NCHW, pooled_NCHW], dim=1)


@NETS.register
def shufflev1(num_classes: int, in_channels: int = 3) -> ShuffleNet:
    return ShuffleNet(num_classes=num_classes, in_channels=in_channels)
