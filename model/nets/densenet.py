"""Densely connected networks with bottlenecks and compression: the input of a layer is all earlier ones of its stage.

Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017, the DenseNet-BC of
sec. 3. https://arxiv.org/abs/1608.06993
Structure and names are those of bearpaw's pytorch-classification, from which peterliht's knowledge-distillation-pytorch
has its teacher, so their weights load.
The output of a dense block is a concatenation of convolutions without ReLU: `maps` are these, and `preacts` are their
values after the next batch norm.
The last pool is global, which at 32x32 equals the original's 8x8 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out, as in the original; the linear layer PyTorch's default.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


class DenseNet(nn.Module):
    """A stem and three dense blocks of equally many layers; a transition after the first two halves the resolution.

    Args:
        depth: Convolutions and linear layers: 6n+4 for n layers of two convolutions in each dense block.
        growth_rate: Channels that each layer adds; the stem has twice as many.
        compression: Output channels of a transition as a fraction of its input channels.
        dropout: Dropout probability of the channels that each layer adds.
    """

    def __init__(
        self,
        depth: int,
        growth_rate: int,
        *,
        compression: float,
        dropout: float,
        num_classes: int,
        in_channels: int,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n+4 for an integer n >= 1, got {depth}")
        if growth_rate < 1:
            raise ValueError(f"growth_rate must be at least 1, got {growth_rate}")
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be above 0 and at most 1, got {compression}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__()
        num_layers = (depth - 4) // 6
        added = num_layers * growth_rate
        stem = 2 * growth_rate
        first = compressed(stem + added, compression)
        second = compressed(first + added, compression)
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, padding=1, bias=False)
        self.dense1 = dense_block(num_layers, stem, growth_rate, dropout=dropout)
        self.trans1 = Transition(stem + added, first)
        self.dense2 = dense_block(num_layers, first, growth_rate, dropout=dropout)
        self.trans2 = Transition(first + added, second)
        self.dense3 = dense_block(num_layers, second, growth_rate, dropout=dropout)
        self.bn = nn.BatchNorm2d(second + added)
        self.fc = nn.Linear(second + added, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = self.conv1(images_NCHW)
        first_NCHW = self.dense1(stem_NCHW)
        halved_NCHW, normed_first_NCHW = self.trans1(first_NCHW)
        second_NCHW = self.dense2(halved_NCHW)
        halved_NCHW, normed_second_NCHW = self.trans2(second_NCHW)
        third_NCHW = self.dense3(halved_NCHW)
        last_NCHW = self.bn(third_NCHW)
        embedding_ND = F.relu(last_NCHW).mean(dim=(2, 3))
        maps = (first_NCHW, second_NCHW, third_NCHW)
        preacts = (normed_first_NCHW, normed_second_NCHW, last_NCHW)
        return Output(self.fc(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


def compressed(num_channels: int, compression: float) -> int:
    """Output channels of a transition, rounded down."""
    num_compressed = math.floor(compression * num_channels)
    if num_compressed < 1:
        raise ValueError(f"compression must leave at least one channel, {compression} of {num_channels} leaves none")
    return num_compressed


def dense_block(num_layers: int, in_channels: int, growth_rate: int, *, dropout: float) -> nn.Sequential:
    """Layers of one resolution; each has `growth_rate` input channels more than the one before."""
    inputs = (in_channels + number * growth_rate for number in range(num_layers))
    return nn.Sequential(*(DenseLayer(channels, growth_rate, dropout=dropout) for channels in inputs))


class DenseLayer(nn.Module):
    """A 1x1 convolution to four times the growth rate, then a 3x3; returns the input and the result, concatenated."""

    def __init__(self, in_channels: int, growth_rate: int, *, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout = dropout

    def forward(self, map_NCHW: Tensor) -> Tensor:
        added_NCHW = self.conv1(F.relu(self.bn1(map_NCHW)))
        added_NCHW = self.conv2(F.relu(self.bn2(added_NCHW)))
        added_NCHW = F.dropout(added_NCHW, self.dropout, self.training)
        return torch.cat((map_NCHW, added_NCHW), dim=1)


class Transition(nn.Module):
    """Reduces channels and halves the resolution. Returns the result, and the input after batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        return F.avg_pool2d(self.conv1(F.relu(normed_NCHW)), kernel_size=2), normed_NCHW


@NETS.register
def densenet(
    num_classes: int,
    in_channels: int = 3,
    *,
    depth: int = 100,
    growth_rate: int = 12,
    compression: float = 0.5,
    dropout: float = 0.0,
) -> DenseNet:
    """A DenseNet-BC of any size.

    Args:
        depth: Layers: 10, 16, 22, 28, 34, 40, ..., 100, ..., 190, ..., 250, ...
        growth_rate: Channels that each layer adds.
        compression: Output channels of a transition as a fraction of its input channels, rounded down.
        dropout: Dropout probability of the channels that each layer adds; the paper has 0.2 without data augmentation.
    """
    return DenseNet(
        depth,
        growth_rate,
        compression=compression,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
    )


@NETS.register
def densenet_bc_100_12(num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> DenseNet:
    return DenseNet(100, 12, compression=0.5, dropout=dropout, num_classes=num_classes, in_channels=in_channels)
