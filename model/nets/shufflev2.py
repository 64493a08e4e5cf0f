"""ShuffleNet V2 for small images: half of the channels pass through each unit untouched.

Ma, Zhang, Zheng and Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.
https://arxiv.org/abs/1807.11164
Follows the structure and names of HobbitLong's RepDistiller, its `ShuffleV2`, so that teachers published there load:
the paper's widths of size 1, behind a 1x1 stem of stride 1 without pool.
A stage hands on shuffled channels of which half have been through their ReLU before. `preacts` have the channels in the
same order, so that `maps` are their ReLU; RepDistiller gives them out before the shuffle, in another order.
`embedding` is what the last 1x1 convolution makes of the deepest map, 1024 wide.
The last pool is global, the same at 32x32 as the 4x4 pool there, so that other image sizes work too.
Initial weights are PyTorch's own, as in that code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .stages import shuffled, through_stages


class ShuffleNetV2(nn.Module):
    """A stem of 24 channels and three stages of 116, 232 and 464; each stage halves the resolution."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 24, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = stage(4, 24, 116)
        self.layer2 = stage(8, 116, 232)
        self.layer3 = stage(4, 232, 464)
        self.conv2 = nn.Conv2d(464, 1024, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        maps, preacts = through_stages((self.layer1, self.layer2, self.layer3), stem_NCHW)
        embedding_ND = F.relu(self.bn2(self.conv2(maps[-1]))).mean(dim=(2, 3))
        return Output(self.linear(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(num_units: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Units of one resolution; the first one has the stride."""
    return nn.Sequential(DownUnit(in_channels, out_channels), *(Unit(out_channels) for _ in range(num_units - 1)))


class DownUnit(nn.Module):
    """Two branches that both halve the resolution, put beside each other; the last ReLU is left to the network."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv4 = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, groups=width, bias=False)
        self.bn4 = nn.BatchNorm2d(width)
        self.conv5 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn5 = nn.BatchNorm2d(width)

    def forward(self, map_NCHW: Tensor) -> Tensor:
        left_NCHW = self.bn2(self.conv2(self.bn1(self.conv1(map_NCHW))))
        right_NCHW = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(map_NCHW)))))
        right_NCHW = self.bn5(self.conv5(right_NCHW))
        return shuffled(torch.cat([left_NCHW, right_NCHW], dim=1), groups=2)


class Unit(nn.Module):
    """Three convolutions on the second half of the channels; the last ReLU is left to the network.

    That ReLU changes the second half alone, as the first has been through one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.conv1 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, map_NCHW: Tensor) -> Tensor:
        untouched_NCHW, branch_NCHW = map_NCHW.chunk(2, dim=1)
        branch_NCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(branch_NCHW)))))
        branch_NCHW = self.bn3(self.conv3(branch_NCHW))
        return shuffled(torch.cat([untouched_NCHW, branch_NCHW], dim=1), groups=2)


@NETS.register
def shufflev2(num_classes: int, in_channels: int = 3) -> ShuffleNetV2:
    return ShuffleNetV2(num_classes=num_classes, in_channels=in_channels)
