"""Wide residual networks: few layers, many channels, batch norm and ReLU before each convolution.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. https://arxiv.org/abs/1605.07146
Structure and names are those of HobbitLong's RepDistiller, so its teachers load: where a block changes the number of
channels, its 1x1 shortcut is applied to the input after batch norm and ReLU.
The output of a stage is a sum without ReLU: `maps` are these sums, and `preacts` are their values after the next batch
norm.
The last pool is global, which at 32x32 equals the original's 8x8 pool, so other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out, as in the original; the linear layer PyTorch's default,
its bias 0.

`wrn` also builds the networks of pytorch-moonshine: their blocks have cheaper convolutions, one instead of two
(`Bottle`), or batch norm and ReLU after the convolutions (`Old`; the output of such a block has passed its ReLU, and
the network's last batch norm and ReLU are applied in addition, as in the original). With `splits`, a stage has that
many maps, evenly spaced. Names of weights are RepDistiller's, whatever the convolutions and splits;
pytorch-moonshine's differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from . import resnet_cifar
from .convolutions import convolution

BlockName = Literal["Basic", "Bottle", "Old"]


class WideResNet(nn.Module):
    """A stem and three stages of equally many blocks; the second and third stage halve the resolution.

    Args:
        depth: Convolutions and linear layers of the network with basic blocks, shortcuts not counted: 6n+4 for n
            blocks a stage.
        width: Factor of the stages' 16, 32 and 64 channels.
        conv: The type of the blocks' convolutions.
        block: The blocks' structure.
        splits: Number of maps per stage.
        dropout: Dropout probability between the two convolutions of a basic block.
    """

    def __init__(
        self,
        depth: int,
        width: float,
        *,
        num_classes: int,
        in_channels: int,
        conv: str = "Conv",
        block: BlockName = "Basic",
        splits: int = 1,
        dropout: float = 0.0,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n+4 for an integer n >= 1, got {depth}")
        num_blocks = (depth - 4) // 6
        if int(16 * width) < 1:
            raise ValueError(f"width must give the first stage at least one channel, got {width}")
        if splits < 1 or num_blocks % splits:
            raise ValueError(f"splits must divide the {num_blocks} blocks of a stage, got {splits}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if dropout and block != "Basic":
            raise ValueError(
                f"dropout is for Basic blocks, between their two convolutions; it must be 0 with block {block}"
            )
        super().__init__()
        make_block = partial(BLOCKS[block], conv=conv, **({"dropout": dropout} if dropout else {}))
        widths = [16, *(int(channels * width) for channels in (16, 32, 64))]
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.block1 = WideStage(make_block, num_blocks, widths[0], widths[1], stride=1)
        self.block2 = WideStage(make_block, num_blocks, widths[1], widths[2], stride=2)
        self.block3 = WideStage(make_block, num_blocks, widths[2], widths[3], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

        every = num_blocks // splits
        self.map_blocks = tuple(range(every - 1, 3 * num_blocks, every))  # the blocks whose outputs are the maps
        # A map's preact is from the next block's batch norm, or from the same block where it ends in a ReLU.
        self.preact_blocks = self.map_blocks if block == "Old" else tuple(number + 1 for number in self.map_blocks[:-1])

    def forward(self, images_NCHW: Tensor) -> Output:
        map_NCHW = stem_NCHW = self.conv1(images_NCHW)
        maps, preacts = [], []
        for number, block in enumerate(chain(self.block1.layer, self.block2.layer, self.block3.layer)):
            map_NCHW, preact_NCHW = block(map_NCHW)
            if number in self.map_blocks:
                maps.append(map_NCHW)
            if number in self.preact_blocks:
                preacts.append(preact_NCHW)
        last_NCHW = self.bn1(map_NCHW)
        if len(preacts) < len(maps):
            preacts.append(last_NCHW)
        embedding_ND = F.relu(last_NCHW).mean(dim=(2, 3))
        return Output(self.fc(embedding_ND), embedding_ND, tuple(maps), tuple(preacts), stem=stem_NCHW)


class WideStage(nn.Module):
    """The blocks of one resolution; the first one has the stride."""

    def __init__(
        self, make_block: Callable[..., nn.Module], num_blocks: int, in_channels: int, out_channels: int, *, stride: int
    ) -> None:
        super().__init__()
        first = make_block(in_channels, out_channels, stride=stride)
        rest = [make_block(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
        self.layer = nn.ModuleList([first, *rest])


class WideBlock(nn.Module):
    """Two convolutions and a shortcut. Returns their sum, and the input after batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, conv: str = "Conv", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(conv, in_channels, out_channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(conv, out_channels, out_channels)
        self.convShortcut = shortcut(in_channels, out_channels, stride=stride)
        self.dropout = dropout

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        active_NCHW = F.relu(normed_NCHW)
        branch_NCHW = F.relu(self.bn2(self.conv1(active_NCHW)))
        branch_NCHW = self.conv2(F.dropout(branch_NCHW, self.dropout, self.training))
        shortcut_NCHW = map_NCHW if self.convShortcut is None else self.convShortcut(active_NCHW)
        return shortcut_NCHW + branch_NCHW, normed_NCHW


class WideBottleBlock(nn.Module):
    """One convolution and a shortcut. Returns their sum, and the input after batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, conv: str = "Conv") -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(conv, in_channels, out_channels, stride=stride)
        self.convShortcut = shortcut(in_channels, out_channels, stride=stride)

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        active_NCHW = F.relu(normed_NCHW)
        shortcut_NCHW = map_NCHW if self.convShortcut is None else self.convShortcut(active_NCHW)
        return shortcut_NCHW + self.conv1(active_NCHW), normed_NCHW


class WideOldBlock(resnet_cifar.CifarBlock):
    """Batch norm and ReLU after the convolutions. Returns the sum after its ReLU and before."""

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        sum_NCHW = super().forward(map_NCHW)
        return F.relu(sum_NCHW), sum_NCHW


BLOCKS: dict[BlockName, Callable[..., nn.Module]] = {"Basic": WideBlock, "Bottle": WideBottleBlock, "Old": WideOldBlock}


def shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d | None:
    """A 1x1 convolution, or None where the number of channels is unchanged."""
    if in_channels == out_channels:
        return None
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


@NETS.register
def wrn(
    num_classes: int,
    in_channels: int = 3,
    *,
    depth: int = 40,
    width: float = 2.0,
    conv: str = "Conv",
    block: BlockName = "Basic",
    splits: int = 1,
    dropout: float = 0.0,
) -> WideResNet:
    """A wide residual network of any size, with convolutions and blocks of any type.

    Args:
        depth: Layers with basic blocks, shortcuts not counted: 10, 16, 22, 28, 34, 40, ...
        width: Factor of the 16, 32 and 64 channels, not necessarily an integer.
        conv: Type of the blocks' convolutions, with any numbers: Conv, Conv2x2, DConv, DConv3D, ConvB4, DConvB4,
            DConvG8, DConvA8, G8B4, A8B4.
        block: Basic has two convolutions, Bottle one; Old has two, with batch norm and ReLU after them.
        splits: Number of maps per stage for losses that compare maps; a divisor of the stage's number of blocks.
        dropout: Dropout probability between the two convolutions of a basic block.
    """
    return WideResNet(
        depth,
        width,
        num_classes=num_classes,
        in_channels=in_channels,
        conv=conv,
        block=block,
        splits=splits,
        dropout=dropout,
    )


@NETS.register
def wrn_16_1(num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> WideResNet:
    return WideResNet(16, 1, dropout=dropout, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def wrn_16_2(num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> WideResNet:
    return WideResNet(16, 2, dropout=dropout, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def wrn_40_1(num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> WideResNet:
    return WideResNet(40, 1, dropout=dropout, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def wrn_40_2(num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> WideResNet:
    return WideResNet(40, 2, dropout=dropout, num_classes=num_classes, in_channels=in_channels)
