"""Wide residual networks: few layers, many channels, batch norm and ReLU before each convolution.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016. https://arxiv.org/abs/1605.07146
Follows the structure and names of HobbitLong's RepDistiller, so that teachers published there load: where a block
changes the number of channels, its 1x1 shortcut reads the input after batch norm and ReLU.
A stage hands on a plain sum, so `maps` are sums, and `preacts` are what the next batch norm makes of them.
The last pool is global, the same at 32x32 as the 8x8 pool there, so that other image sizes work too.
Initial weights: convolutions normal with variance 2 / fan-out, as there; the linear layer PyTorch's own, its bias 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from model.registry import NETS
from model.types import Output


class WideResNet(nn.Module):
    """A stem and three stages of equally many blocks; the second and third stage halve the resolution.

    Args:
        depth: Convolutions and linear layers, shortcuts not counted: 6n+4 for n blocks a stage.
        width: Factor of the stages' 16, 32 and 64 channels.
        dropout: Share of values dropped between the two convolutions of a block.
    """

    def __init__(self, depth: int, width: float, *, dropout: float, num_classes: int, in_channels: int) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n+4 for a whole n of at least 1, got {depth}")
        if int(16 * width) < 1:
            raise ValueError(f"width must give the first stage a channel at least, got {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__()
        num_blocks = (depth - 4) // 6
        widths = [16, *(int(channels * width) for channels in (16, 32, 64))]
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.block1 = Stage(num_blocks, widths[0], widths[1], stride=1, dropout=dropout)
        self.block2 = Stage(num_blocks, widths[1], widths[2], stride=2, dropout=dropout)
        self.block3 = Stage(num_blocks, widths[2], widths[3], stride=2, dropout=dropout)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images_NCHW: Tensor) -> Output:
        first_NCHW, _ = self.block1(self.conv1(images_NCHW))
        second_NCHW, before_second_NCHW = self.block2(first_NCHW)
        third_NCHW, before_third_NCHW = self.block3(second_NCHW)
        last_NCHW = self.bn1(third_NCHW)
        embedding_ND = F.relu(last_NCHW).mean(dim=(2, 3))
        maps = (first_NCHW, second_NCHW, third_NCHW)
        return Output(self.fc(embedding_ND), embedding_ND, maps, (before_second_NCHW, before_third_NCHW, last_NCHW))


class Stage(nn.Module):
    """Blocks of one resolution; the first one has the stride. Returns their output, and its input after batch norm."""

    def __init__(self, num_blocks: int, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        first = BasicBlock(in_channels, out_channels, stride=stride, dropout=dropout)
        rest = [BasicBlock(out_channels, out_channels, stride=1, dropout=dropout) for _ in range(num_blocks - 1)]
        self.layer = nn.ModuleList([first, *rest])

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = self.layer
        map_NCHW, normed_NCHW = first(map_NCHW)
        for block in rest:
            map_NCHW, _ = block(map_NCHW)
        return map_NCHW, normed_NCHW


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Returns their sum, and the input after batch norm."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
        self.dropout = dropout

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        normed_NCHW = self.bn1(map_NCHW)
        active_NCHW = F.relu(normed_NCHW)
        branch_NCHW = F.relu(self.bn2(self.conv1(active_NCHW)))
        branch_NCHW = self.conv2(F.dropout(branch_NCHW, self.dropout, self.training))
        shortcut_NCHW = map_NCHW if self.convShortcut is None else self.convShortcut(active_NCHW)
        return shortcut_NCHW + branch_NCHW, normed_NCHW


@NETS.register
def wrn(
    num_classes: int, in_channels: int = 3, *, depth: int = 40, width: float = 2.0, dropout: float = 0.0
) -> WideResNet:
    """A wide residual network of any size.

    Args:
        depth: Layers, shortcuts not counted: 10, 16, 22, 28, 34, 40, ...
        width: Factor of the 16, 32 and 64 channels; need not be whole.
        dropout: Share of values dropped between the two convolutions of a block.
    """
    return WideResNet(depth, width, dropout=dropout, num_classes=num_classes, in_channels=in_channels)


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
