"""The CIFAR ResNets of 6n+2 layers, ResNet-8 to ResNet-110: three thin stages.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, sec. 4.2.
https://arxiv.org/abs/1512.03385
Structure and names are those of HobbitLong's RepDistiller, the networks of the distillation papers, so its teachers
load: shortcuts between stages are 1x1 projections (the paper's option B), not padded identities (A). The names with x4
are that project's: a stem twice as wide, stages four times.
The last pool is global, which at 32x32 equals the original's 8x8 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out, as in the original; the linear layer PyTorch's default.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .convolutions import convolution
from .stages import forward_stages


class CifarResNet(nn.Module):
    """A stem and three stages of equally many residual blocks; the second and third stage halve the resolution.

    Args:
        depth: Convolutions and linear layers, projections not counted: 6n+2 for n blocks a stage.
        widths: Channels of the stem and of the three stages.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], *, num_classes: int, in_channels: int) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n+2 for an integer n >= 1, got {depth}")
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = stage(num_blocks, widths[0], widths[1], stride=1)
        self.layer2 = stage(num_blocks, widths[1], widths[2], stride=2)
        self.layer3 = stage(num_blocks, widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.bn1(self.conv1(images_NCHW)))
        maps, preacts = forward_stages((self.layer1, self.layer2, self.layer3), stem_NCHW)
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.fc(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def stage(num_blocks: int, in_channels: int, out_channels: int, *, stride: int, conv: str = "Conv") -> nn.Sequential:
    """Blocks of one resolution; the first one has the stride."""
    first = CifarBlock(in_channels, out_channels, stride=stride, conv=conv)
    rest = [CifarBlock(out_channels, out_channels, stride=1, conv=conv) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


class CifarBlock(nn.Module):
    """Two convolutions and a shortcut; returns the sum before its ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, conv: str = "Conv") -> None:
        super().__init__()
        self.conv1 = convolution(conv, in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(conv, out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()  # the identity
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.downsample.extend([projection, nn.BatchNorm2d(out_channels)])

    def forward(self, map_NCHW: Tensor) -> Tensor:
        branch_NCHW = F.relu(self.bn1(self.conv1(map_NCHW)))
        sum_NCHW: Tensor = self.bn2(self.conv2(branch_NCHW)) + self.downsample(map_NCHW)
        return sum_NCHW


@NETS.register
def resnet8(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=8, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet14(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=14, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet20(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=20, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet32(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=32, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet44(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=44, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet56(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=56, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet110(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=110, widths=(16, 16, 32, 64), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet8x4(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=8, widths=(32, 64, 128, 256), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def resnet32x4(num_classes: int, in_channels: int = 3) -> CifarResNet:
    return CifarResNet(depth=32, widths=(32, 64, 128, 256), num_classes=num_classes, in_channels=in_channels)
