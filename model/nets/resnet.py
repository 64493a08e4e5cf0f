"""ResNet-18 to ResNet-152 for small images: the ImageNet networks with a stem that keeps the resolution.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016. https://arxiv.org/abs/1512.03385
Sizes are the paper's table 1. Stem, projection shortcuts and names are those of kuangliu's pytorch-cifar, so its
weights load: a 3x3 stem of stride 1 without max-pool, the bottleneck's stride on its 3x3 convolution.
The last pool is global, which at 32x32 equals the original's 4x4 pool, so other image sizes work too.
Initial weights are PyTorch's defaults, as in that code; the paper's differ.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .stages import forward_stages


class ResNet(nn.Module):
    """Four stages of residual blocks with 64, 128, 256 and 512 channels, times the block's expansion.

    Every stage after the first halves the resolution.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: tuple[int, int, int, int],
        *,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(block, num_blocks[0], in_channels=64, width=64, stride=1)
        self.layer2 = stage(block, num_blocks[1], in_channels=64 * block.expansion, width=128, stride=2)
        self.layer3 = stage(block, num_blocks[2], in_channels=128 * block.expansion, width=256, stride=2)
        self.layer4 = stage(block, num_blocks[3], in_channels=256 * block.expansion, width=512, stride=2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3, self.layer4), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.linear(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(
    block: type[BasicBlock] | type[Bottleneck], num_blocks: int, *, in_channels: int, width: int, stride: int
) -> nn.Sequential:
    """Blocks of one resolution; the first one has the stride."""
    first = block(in_channels, width, stride=stride)
    rest = [block(width * block.expansion, width, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before its ReLU."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride=stride)

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW = F.relu(self.bn1(self.conv1(map_NCHW)))
        sum_NCHW: Tensor = self.bn2(self.conv2(branch_NCHW)) + self.shortcut(map_NCHW)
        return sum_NCHW


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones and a shortcut; returns the sum before its ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.shortcut = shortcut(in_channels, width * self.expansion, stride=stride)

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW = F.relu(self.bn1(self.conv1(map_NCHW)))
        branch_NCHW = F.relu(self.bn2(self.conv2(branch_NCHW)))
        sum_NCHW: Tensor = self.bn3(self.conv3(branch_NCHW)) + self.shortcut(map_NCHW)
        return sum_NCHW


def shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """The identity where shapes allow it (an empty Sequential), else a 1x1 projection."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


@NETS.register
def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet34(num_classes: int, in_channels: int = 3) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet50(num_classes: int, in_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet101(num_classes: int, in_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet152(num_classes: int, in_channels: int = 3) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes=num_classes, in_channels=in_channels)
