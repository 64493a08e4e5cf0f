"""ResNets with a classifier after every stage, for self-distillation from the last one.

Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
ICCV 2019. https://arxiv.org/abs/1905.08094
The branches before the early classifiers are those of luanyunteng's pytorch-be-your-own-teacher ("bottleneck": one
strided convolution brings any stage to the last one's resolution), without its unused projections; or those of the
authors' later code ("stacked": a pair of separable convolutions per halving, as in the paper's figure 2).
Initial weights: convolutions normal with variance 2 / fan-out, as in both; linear layers PyTorch's default.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ..registry import NETS
from ..types import Output
from .resnet import BasicBlock, Bottleneck, ResNet

Branch = Literal["bottleneck", "stacked"]


class MultiExitResNet(ResNet):
    """A ResNet with three early exits, after the first three of its four stages.

    Args:
        branch: The layers between a stage and its classifier.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: tuple[int, int, int, int],
        *,
        branch: Branch,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__(block, num_blocks, num_classes=num_classes, in_channels=in_channels)
        out_channels = 512 * block.expansion
        self.exits = nn.ModuleList(
            Exit(BRANCHES[branch](width * block.expansion, out_channels, halvings), out_channels, num_classes)
            for width, halvings in ((64, 3), (128, 2), (256, 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Output:
        output = super().forward(images_NCHW)
        exits = [early_exit(map_NCHW) for early_exit, map_NCHW in zip(self.exits, output.maps[:3], strict=True)]
        return Output(
            output.logits, output.embedding, output.maps, output.preacts, exits=tuple(exits), stem=output.stem
        )


class Exit(nn.Module):
    """A branch, a global pool and a classifier."""

    def __init__(self, branch: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.branch, self.linear = branch, nn.Linear(channels, num_classes)

    def forward(self, map_NCHW: Tensor) -> Output:
        embedding_ND = self.branch(map_NCHW).mean(dim=(2, 3))
        return Output(self.linear(embedding_ND), embedding_ND)


def bottleneck_branch(in_channels: int, out_channels: int, halvings: int) -> nn.Sequential:
    """1x1, then a convolution whose size and stride are the factor between the resolutions, then 1x1."""
    width, factor = out_channels // 4, 2**halvings
    return nn.Sequential(
        *(nn.Conv2d(in_channels, width, kernel_size=1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, width, kernel_size=factor, stride=factor), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, out_channels, kernel_size=1), nn.BatchNorm2d(out_channels), nn.ReLU()),
    )


def stacked_branch(in_channels: int, out_channels: int, halvings: int) -> nn.Sequential:
    """A pair of separable convolutions per halving; each doubles the channels, as in the stages."""
    widths = [in_channels * 2**step for step in range(halvings)] + [out_channels]
    return nn.Sequential(*(separable_pair(width, next_width) for width, next_width in pairwise(widths)))


def separable_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two separable 3x3 convolutions; the first one has stride 2."""
    return nn.Sequential(
        *separable(in_channels, in_channels, stride=2),
        *separable(in_channels, out_channels, stride=1),
    )


def separable(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


BRANCHES = {"bottleneck": bottleneck_branch, "stacked": stacked_branch}


@NETS.register
def multi_exit_resnet18(num_classes: int, in_channels: int = 3, *, branch: Branch = "bottleneck") -> MultiExitResNet:
    return MultiExitResNet(BasicBlock, (2, 2, 2, 2), branch=branch, num_classes=num_classes, in_channels=in_channels)


@NETS.register
def multi_exit_resnet50(num_classes: int, in_channels: int = 3, *, branch: Branch = "bottleneck") -> MultiExitResNet:
    return MultiExitResNet(Bottleneck, (3, 4, 6, 3), branch=branch, num_classes=num_classes, in_channels=in_channels)
