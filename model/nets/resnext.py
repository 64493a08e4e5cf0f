"""ResNeXt for small images: residual blocks with a grouped 3x3 convolution.

Xie, Girshick, Dollar, Tu and He, "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, sec. 5.3.
https://arxiv.org/abs/1611.05431
Structure and names are those of prlz77's ResNeXt.pytorch, from which peterliht's knowledge-distillation-pytorch has its
teacher, so their weights load: where a block changes the number of channels, its shortcut is a 1x1 convolution and
batch norm; the 3x3 convolution has the stride. Batch norm follows each convolution, as in the authors' code, which is
better on small images than the paper's blocks with batch norm first.
The last pool is global, which at 32x32 equals the original's 8x8 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out (all output channels, not those of a group), the linear
layer normal with variance 2 / fan-in, its bias 0, as in the original.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .stages import forward_stages


class ResNeXt(nn.Module):
    """A stem and three stages of equally many blocks; the second and third stage halve the resolution.

    Args:
        depth: Convolutions and linear layers, shortcuts not counted: 9n+2 for n blocks a stage.
        cardinality: Groups of the 3x3 convolutions.
        base_width: Channels of a group in the first stage; twice and four times as many in the second and third.
    """

    def __init__(self, depth: int, *, cardinality: int, base_width: int, num_classes: int, in_channels: int) -> None:
        if depth < 11 or depth % 9 != 2:
            raise ValueError(f"depth must be 9n+2 for an integer n >= 1, got {depth}")
        if cardinality < 1 or base_width < 1:
            raise ValueError(f"cardinality and base_width must be at least 1, got {cardinality} and {base_width}")
        super().__init__()
        num_blocks = (depth - 2) // 9
        width = cardinality * base_width
        self.conv_1_3x3 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        self.stage_1 = stage("stage_1", num_blocks, 64, width, 256, groups=cardinality, stride=1)
        self.stage_2 = stage("stage_2", num_blocks, 256, 2 * width, 512, groups=cardinality, stride=2)
        self.stage_3 = stage("stage_3", num_blocks, 512, 4 * width, 1024, groups=cardinality, stride=2)
        self.classifier = nn.Linear(1024, num_classes)
        nn.init.kaiming_normal_(self.classifier.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn_1(self.conv_1_3x3(images_NCHW)))
        maps, preacts = forward_stages((self.stage_1, self.stage_2, self.stage_3), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.classifier(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(
    name: str, num_blocks: int, in_channels: int, width: int, out_channels: int, *, groups: int, stride: int
) -> nn.Sequential:
    """Blocks of one resolution; the first one has the stride."""
    first = ResNeXtBlock(in_channels, width, out_channels, groups=groups, stride=stride)
    rest = [ResNeXtBlock(out_channels, width, out_channels, groups=groups, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(
        OrderedDict((f"{name}_bottleneck_{number}", block) for number, block in enumerate((first, *rest)))
    )


class ResNeXtBlock(nn.Module):
    """A grouped 3x3 convolution between two of 1x1, and a shortcut; returns the sum before its ReLU."""

    def __init__(self, in_channels: int, width: int, out_channels: int, *, groups: int, stride: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(width)
        self.conv_conv = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv_expand = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn_expand = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()  # the identity
        if in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut.add_module("shortcut_conv", projection)
            self.shortcut.add_module("shortcut_bn", nn.BatchNorm2d(out_channels))

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW = F.relu(self.bn_reduce(self.conv_reduce(map_NCHW)))
        branch_NCHW = F.relu(self.bn(self.conv_conv(branch_NCHW)))
        sum_NCHW: Tensor = self.bn_expand(self.conv_expand(branch_NCHW)) + self.shortcut(map_NCHW)
        return sum_NCHW


@NETS.register
def resnext(
    num_classes: int, in_channels: int = 3, *, depth: int = 29, cardinality: int = 8, base_width: int = 64
) -> ResNeXt:
    """A ResNeXt of any size.

    Args:
        depth: Layers, shortcuts not counted: 11, 20, 29, 38, ...
        cardinality: Groups of the 3x3 convolutions.
        base_width: Channels of a group in the first stage; twice and four times as many in the second and third.
    """
    return ResNeXt(
        depth, cardinality=cardinality, base_width=base_width, num_classes=num_classes, in_channels=in_channels
    )


@NETS.register
def resnext29_8x64d(num_classes: int, in_channels: int = 3) -> ResNeXt:
    return ResNeXt(29, cardinality=8, base_width=64, num_classes=num_classes, in_channels=in_channels)
