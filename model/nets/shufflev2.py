"""ShuffleNet V2 for small images: half of the channels pass through each unit unchanged.

Ma, Zhang, Zheng and Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018.
https://arxiv.org/abs/1807.11164
Structure and names are those of `ShuffleV2` in HobbitLong's RepDistiller, so its teachers load: the paper's widths for
size 1, after a 1x1 stem of stride 1 without pool.
The output of a stage has shuffled channels, half of which have passed their ReLU before. `preacts` have the channels in
the same order, so that `maps` are their ReLU; RepDistiller returns them before the shuffle, in another order.
`embedding` is the pooled output of the last 1x1 convolution, 1024 wide.
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
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3), stem_NCHW)
        embedding_ND = F.relu(self.bn2(self.conv2(maps[-1]))).mean(dim=(2, 3))
        return Output(self.linear(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(num_units: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Units of one resolution; the first one has the stride."""
    first = ShuffleV2DownUnit(in_channels, out_channels)
    return nn.Sequential(first, *(ShuffleV2Unit(out_channels) for _ in range(num_units - 1)))


class ShuffleV2DownUnit(nn.Module):
    """Two branches that halve the resolution, concatenated; returns the result before its ReLU."""

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
        return channel_shuffle(torch.cat([left_NCHW, right_NCHW], dim=1), groups=2)


class ShuffleV2Unit(nn.Module):
    """Three convolutions on the second half of the channels; returns the result before its ReLU.

    That ReLU changes the second half only, as the first half has passed one before.
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
        unchanged_NCHW, branch_NCHW = map_NCHW.chunk(2, dim=1)
        branch_NCHW = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(branch_NCHW)))))
        branch_NCHW = self.bn3(self.conv3(branch_NCHW))
        return channel_shuffle(torch.cat([unchanged_NCHW, branch_NCHW], dim=1), groups=2)


@NETS.register
def shufflev2(num_classes: int, in_channels: int = 3) -> ShuffleNetV2:
    return ShuffleNetV2(num_classes=num_classes, in_channels=in_channels)
