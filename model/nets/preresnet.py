"""Pre-activation residual networks: batch norm and ReLU precede each convolution, and nothing follows the sums.

He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016. https://arxiv.org/abs/1603.05027
Structure and names are those of bearpaw's pytorch-classification, from which peterliht's knowledge-distillation-pytorch
has its teacher, so their weights load. Both call a network of 164 layers PreResNet-110: 18 bottleneck blocks of three
layers in each of three stages. Here it is `preresnet164`, and `preresnet110` is the paper's, with basic blocks.
Where a block changes the number of channels, its 1x1 shortcut is applied to the input before batch norm, and the first
block's input is the stem's convolution (in the paper: after the first batch norm and ReLU).
The output of a stage is a sum without ReLU: `maps` are these sums, and `preacts` are their values after the next batch
norm.
The last pool is global, which at 32x32 equals the original's 8x8 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out, as in the original; the linear layer PyTorch's default.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output


class PreResNet(nn.Module):
    """A stem and three stages of equally many blocks; the second and third stage halve the resolution.

    Args:
        depth: Convolutions and linear layers, shortcuts not counted, for n blocks a stage: 6n+2 of basic, 9n+2 of
            bottleneck blocks.
        block: Two 3x3 convolutions ("basic"), or 1x1, 3x3 and 1x1 ("bottleneck"), with four times as many output
            channels.
    """

    def __init__(
        self, depth: int, block: Literal["basic", "bottleneck"], *, num_classes: int, in_channels: int
    ) -> None:
        block_class = BLOCKS[block]
        layers = 3 * block_class.num_layers  # with one block in each stage
        if depth < layers + 2 or depth % layers != 2:
            raise ValueError(f"depth must be {layers}n+2 with {block} blocks, for an integer n >= 1, got {depth}")
        super().__init__()
        num_blocks = (depth - 2) // layers
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.layer1 = PreActStage(block_class, num_blocks, 16, 16, stride=1)
        self.layer2 = PreActStage(block_class, num_blocks, 16 * block_class.expansion, 32, stride=2)
        self.layer3 = PreActStage(block_class, num_blocks, 32 * block_class.expansion, 64, stride=2)
        self.bn = nn.BatchNorm2d(64 * block_class.expansion)
        self.fc = nn.Linear(64 * block_class.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        stem_NCHW = self.conv1(images_NCHW)
        first_NCHW, _ = self.layer1(stem_NCHW)
        second_NCHW, before_second_NCHW = self.layer2(first_NCHW)
        third_NCHW, before_third_NCHW = self.layer3(second_NCHW)
        last_NCHW = self.bn(third_NCHW)
        embedding_ND = F.relu(last_NCHW).mean(dim=(2, 3))
        maps = (first_NCHW, second_NCHW, third_NCHW)
        preacts = (before_second_NCHW, before_third_NCHW, last_NCHW)
        return Output(self.fc(embedding_ND), embedding_ND, maps, preacts, stem=stem_NCHW)


class PreActStage(nn.ModuleList):
    """Blocks of one resolution; the first has the stride. Returns the output, and the input after batch norm."""

    def __init__(
        self, block: type[PreActBlock | PreActBottleneck], num_blocks: int, in_channels: int, width: int, *, stride: int
    ) -> None:
        first = block(in_channels, width, stride=stride)
        rest = [block(width * block.expansion, width, stride=1) for _ in range(num_blocks - 1)]
        super().__init__([first, *rest])

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = self
        map_NCHW, normed_NCHW = first(map_NCHW)
        for block in rest:
            map_NCHW, _ = block(map_NCHW)
        return map_NCHW, normed_NCHW


class PreActBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns their sum, and the input after batch norm."""

    num_layers = 2
    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.downsample = shortcut(in_channels, width, stride=stride)

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        branch_NCHW = self.conv1(F.relu(normed_NCHW))
        branch_NCHW = self.conv2(F.relu(self.bn2(branch_NCHW)))
        return self.downsample(map_NCHW) + branch_NCHW, normed_NCHW


class PreActBottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, and a shortcut. Returns their sum, and the input after batch norm."""

    num_layers = 3
    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.downsample = shortcut(in_channels, 4 * width, stride=stride)

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        branch_NCHW = self.conv1(F.relu(normed_NCHW))
        branch_NCHW = self.conv2(F.relu(self.bn2(branch_NCHW)))
        branch_NCHW = self.conv3(F.relu(self.bn3(branch_NCHW)))
        return self.downsample(map_NCHW) + branch_NCHW, normed_NCHW


BLOCKS: dict[str, type[PreActBlock | PreActBottleneck]] = {"basic": PreActBlock, "bottleneck": PreActBottleneck}


def shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """A 1x1 convolution where the shape changes, else the identity."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False))


@NETS.register
def preresnet(
    num_classes: int,
    in_channels: int = 3,
    *,
    depth: int = 164,
    block: Literal["basic", "bottleneck"] = "bottleneck",
) -> PreResNet:
    """A pre-activation residual network of any depth.

    Args:
        depth: Layers, shortcuts not counted: 8, 14, 20, 26, ... of basic, 11, 20, 29, 38, ... of bottleneck blocks.
        block: Two 3x3 convolutions ("basic"), or 1x1, 3x3 and 1x1 ("bottleneck").
    """
    return PreResNet(depth, block, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def preresnet20(num_classes: int, in_channels: int = 3) -> PreResNet:
    return PreResNet(20, "basic", num_classes=num_classes, in_channels=in_channels)


@NETS.register
def preresnet56(num_classes: int, in_channels: int = 3) -> PreResNet:
    return PreResNet(56, "basic", num_classes=num_classes, in_channels=in_channels)


@NETS.register
def preresnet110(num_classes: int, in_channels: int = 3) -> PreResNet:
    """The paper's network of 110 layers; for the network that the ancestor calls "preresnet110", see `preresnet164`."""
    return PreResNet(110, "basic", num_classes=num_classes, in_channels=in_channels)


@NETS.register
def preresnet164(num_classes: int, in_channels: int = 3) -> PreResNet:
    """With bottleneck blocks; the network that the ancestor calls "preresnet110"."""
    return PreResNet(164, "bottleneck", num_classes=num_classes, in_channels=in_channels)
