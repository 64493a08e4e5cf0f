"""MobileNetV2 for small images, at half width: inverted residuals with linear bottlenecks.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
https://arxiv.org/abs/1801.04381
Structure and names are those of HobbitLong's RepDistiller, so its teachers load: table 2 of the paper with half the
channels (not rounded to multiples of 8; the last 1280 are not halved), stride 1 instead of 2 in the second block, ReLU
instead of ReLU6, a 1x1 expansion in the first block too, and no dropout. With 6.5 million multiply-accumulates at 32x32
it is far smaller than other networks of this name.
The four stages are the blocks of one resolution. Each ends in a linear bottleneck without ReLU, so `maps` and `preacts`
are the same tensors, with negative values.
The last pool is global, which at 32x32 equals the original's 2x2 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out (all output channels, not those of a group), the linear
layer normal with deviation 0.01, its bias 0, as in the original.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output

# Of each block: expansion factor, output channels, units, stride of the first unit.
BLOCKS = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
LAST_OF_STAGES = (1, 2, 4, 6)  # the blocks whose outputs are the maps


class MobileNetV2(nn.Module):
    """A stem of stride 2, seven blocks of inverted residuals, and a 1x1 convolution before the pool."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        stem = nn.Conv2d(in_channels, 16, kernel_size=3, stride=2, padding=1, bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(16))
        self.blocks = nn.ModuleList()
        channels = 16
        for factor, width, num_units, stride in BLOCKS:
            first = InvertedResidual(channels, width, factor=factor, stride=stride)
            rest = [InvertedResidual(width, width, factor=factor, stride=1) for _ in range(num_units - 1)]
            self.blocks.append(nn.Sequential(first, *rest))
            channels = width
        self.conv2 = nn.Sequential(nn.Conv2d(channels, 1280, kernel_size=1, bias=False), nn.BatchNorm2d(1280))
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images_NCHW: Tensor) -> Output:
        map_NCHW = stem_NCHW = F.relu(self.conv1(images_NCHW))
        maps = []
        for number, block in enumerate(self.blocks):
            map_NCHW = block(map_NCHW)
            if number in LAST_OF_STAGES:
                maps.append(map_NCHW)
        embedding_ND = F.relu(self.conv2(map_NCHW)).mean(dim=(2, 3))
        return Output(self.classifier(embedding_ND), embedding_ND, tuple(maps), tuple(maps), stem=stem_NCHW)


class InvertedResidual(nn.Module):
    """A depthwise convolution on expanded channels between two 1x1 ones; a shortcut where the shape is unchanged."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * factor
        self.conv = nn.Sequential(
            *(nn.Conv2d(in_channels, hidden, kernel_size=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()),
            nn.Conv2d(hidden, hidden, kernel_size=3, stride=stride, padding=1, groups=hidden, bias=False),
            *(nn.BatchNorm2d(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW: Tensor = self.conv(map_NCHW)
        return map_NCHW + branch_NCHW if self.has_shortcut else branch_NCHW


@NETS.register
def mobilenetv2(num_classes: int, in_channels: int = 3) -> MobileNetV2:
    return MobileNetV2(num_classes=num_classes, in_channels=in_channels)
