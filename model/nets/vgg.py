"""VGG for small images, with batch norm and one linear layer: five blocks of plain 3x3 convolutions.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1.
https://arxiv.org/abs/1409.1556
Structure and names are those of HobbitLong's RepDistiller, so its teachers load: a global pool and one linear layer
replace the paper's three, only the first three blocks end in max-pool (images of 32x32 stay 4x4 in the last two), and
vgg8 is that project's. Images that are exactly 64 high get a fourth pool, as in that code.
The first block counts as the stem: `stem` is its output, `maps` are those of the other four, before their pools.
Initial weights: convolutions normal with variance 2 / fan-out, the linear layer normal with deviation 0.01, biases 0,
as in the original.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five blocks of 64, 128, 256, 512 and 512 channels, with `num_convs` convolutions each."""

    def __init__(self, num_convs: tuple[int, int, int, int, int], *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.block0 = conv_block(num_convs[0], in_channels, WIDTHS[0])
        self.block1 = conv_block(num_convs[1], WIDTHS[0], WIDTHS[1])
        self.block2 = conv_block(num_convs[2], WIDTHS[1], WIDTHS[2])
        self.block3 = conv_block(num_convs[3], WIDTHS[2], WIDTHS[3])
        self.block4 = conv_block(num_convs[4], WIDTHS[3], WIDTHS[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = F.relu(self.block0(images_NCHW))
        maps, preacts = [], []
        pooled_NCHW = F.max_pool2d(stem_NCHW, 2)
        for block, has_pool in (
            (self.block1, True),
            (self.block2, True),
            (self.block3, images_NCHW.shape[2] == 64),
            (self.block4, False),
        ):
            preacts.append(block(pooled_NCHW))
            maps.append(F.relu(preacts[-1]))
            pooled_NCHW = F.max_pool2d(maps[-1], 2) if has_pool else maps[-1]
        embedding_ND = maps[-1].mean(dim=(2, 3))
        return Output(self.classifier(embedding_ND), embedding_ND, tuple(maps), tuple(preacts), stem=stem_NCHW)


def conv_block(num_convs: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU; the last ReLU is applied by the network."""
    layers: list[nn.Module] = []
    for number in range(num_convs):
        if number:
            layers.append(nn.ReLU())
        channels = out_channels if number else in_channels
        layers += [nn.Conv2d(channels, out_channels, kernel_size=3, padding=1), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers)


@NETS.register
def vgg8(num_classes: int, in_channels: int = 3) -> VGG:
    return VGG((1, 1, 1, 1, 1), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def vgg11(num_classes: int, in_channels: int = 3) -> VGG:
    return VGG((1, 1, 2, 2, 2), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def vgg13(num_classes: int, in_channels: int = 3) -> VGG:
    return VGG((2, 2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def vgg16(num_classes: int, in_channels: int = 3) -> VGG:
    return VGG((2, 2, 3, 3, 3), num_classes=num_classes, in_channels=in_channels)


@NETS.register
def vgg19(num_classes: int, in_channels: int = 3) -> VGG:
    return VGG((2, 2, 4, 4, 4), num_classes=num_classes, in_channels=in_channels)
