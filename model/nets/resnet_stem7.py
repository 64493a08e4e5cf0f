"""The ResNet-20 and ResNet-110 of a benchmark whose stem has 7x7 kernels with padding 1, not 3x3 ones.

hankyul2's KnowledgeDistillation, https://github.com/hankyul2/KnowledgeDistillation: its `resnet_32_20` and
`resnet_32_110` with the same names of weights, so its checkpoints, dictionaries with the key `weight`, load. The stem
removes 2 pixels on every side, so for images of 32x32 the stages have 28x28, 14x14 and 7x7 where He et al. have 32, 16
and 8: a fifth less arithmetic, and not the network that the literature calls ResNet-20; that is `resnet20`.
Initial weights: convolutions normal with variance 2 / fan-out, the linear layer Xavier uniform, as in the original.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .stages import forward_stages


class ResNetStem7(nn.Module):
    """A stem and three stages of 16, 32 and 64 channels with equally many residual blocks."""

    def __init__(self, num_blocks: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=7, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(64, num_classes)
        self.layer1 = _stage(num_blocks, 16, 16, stride=1)
        self.layer2 = _stage(num_blocks, 16, 32, stride=2)
        self.layer3 = _stage(num_blocks, 32, 64, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.xavier_uniform_(self.fc.weight)

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.fc(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


class Stem7Block(nn.Module):
    """Two convolutions and a shortcut; returns the sum before its ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()  # the identity
        if stride != 1:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.downsample.extend([projection, nn.BatchNorm2d(out_channels)])

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW = F.relu(self.bn1(self.conv1(map_NCHW)))
        sum_NCHW: Tensor = self.bn2(self.conv2(branch_NCHW)) + self.downsample(map_NCHW)
        return sum_NCHW


def _stage(num_blocks: int, in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    first = Stem7Block(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(Stem7Block(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)))


@NETS.register
def resnet20_stem7(num_classes: int, in_channels: int = 3) -> ResNetStem7:
    return ResNetStem7(3, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet110_stem7(num_classes: int, in_channels: int = 3) -> ResNetStem7:
    return ResNetStem7(18, num_classes=num_classes, in_channels=in_channels)
