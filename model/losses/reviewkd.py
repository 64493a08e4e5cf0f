"""Knowledge review: every stage of the student, joined with what lies deeper, guesses the teacher's map.

Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, sec. 3. https://arxiv.org/abs/2104.09044
    sum over levels of the hierarchical distance of guess and teacher, with guess = outer(fused) and
    fused = gate_1 * inner(map) + gate_2 * fused of the level below, from the deepest level on
Levels are the stages and, behind them, the embedding as a map of one position. As in the authors' code, the student's
maps are taken after their ReLU, the teacher's before it. The weight and its warm-up are mdistiller's for CIFAR-100,
beside {"ce": {}}; the authors tuned the weight for each pair of networks, from 0.6 to 8. Batch norm of the embedding
needs two images in a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, before_relu, select_pairs

MOST_CHANNELS = 512  # of the fused maps


@LOSSES.register("reviewkd")
class KnowledgeReview(DistillLoss):
    """Hierarchical distance of the teacher's maps and the student's reviewed ones, summed over levels; uses no labels.

    Args:
        layers: Numbers of the stages that are compared, from 1, or pairs of them (student's, teacher's); shallow first.
    """

    needs = frozenset({"preacts", "embedding"})
    published = TermOptions(weight=1.0, warmup_epochs=20.0)

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.fusions = nn.ModuleList()  # shallow to deep

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        pairs = self.pairs(setting.student, setting.teacher)
        channels = min(MOST_CHANNELS, setting.student.embedding.shape[1])
        for level, (student_NCHW, teacher_NCHW) in enumerate(pairs, start=1):
            in_channels, out_channels = student_NCHW.shape[1], teacher_NCHW.shape[1]
            self.fusions.append(Fusion(in_channels, channels, out_channels, gated=level < len(pairs)))

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        pairs = select_pairs(student.maps, before_relu(teacher, "teacher"), self.layers)
        return [*pairs, (student.embedding[:, :, None, None], teacher.embedding[:, :, None, None])]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        if len(student.embedding) < 2:
            raise ValueError("there must be two images in a batch at least, got 1")
        levels = list(zip(self.fusions, self.pairs(student, teacher), strict=True))
        distances, fused_NCHW = [], None
        for fusion, (student_NCHW, teacher_NCHW) in reversed(levels):
            guess_NCHW, fused_NCHW = fusion(student_NCHW, fused_NCHW, teacher_NCHW.shape[2:])
            distances.append(hierarchical_distance(guess_NCHW, teacher_NCHW))
        return torch.stack(distances).sum()


class Fusion(nn.Module):
    """Attention-based fusion of a map with what was fused below it.

    Args:
        channels: Of the fused map.
        out_channels: Of the guess.
        gated: Whether there is something below.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, gated: bool) -> None:
        super().__init__()
        self.inner = convolution(in_channels, channels, kernel_size=1)
        self.gates = nn.Sequential(nn.Conv2d(2 * channels, 2, kernel_size=1), nn.Sigmoid()) if gated else None
        self.outer = convolution(channels, out_channels, kernel_size=3)

    def forward(self, map_NCHW: Tensor, below_NCHW: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The guess, and what is fused with the level above; both have the height and width of `size`."""
        fused_NCHW: Tensor = self.inner(map_NCHW)
        if self.gates is not None:
            assert below_NCHW is not None
            below_NCHW = F.interpolate(below_NCHW, size=fused_NCHW.shape[2:])  # repeats the nearest value
            gates_N2HW = self.gates(torch.cat([fused_NCHW, below_NCHW], dim=1))
            fused_NCHW = gates_N2HW[:, :1] * fused_NCHW + gates_N2HW[:, 1:] * below_NCHW
        if fused_NCHW.shape[2:] != size:
            fused_NCHW = F.interpolate(fused_NCHW, size=size)
        return self.outer(fused_NCHW), fused_NCHW


def convolution(in_channels: int, out_channels: int, *, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def hierarchical_distance(guess_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Weighted mean of mean squared differences: of the maps, and of them averaged down to 4x4, 2x2 and 1x1.

    Each counts half as much as the one before; those that would not be smaller than the map are left out.
    """
    total, weight, weights = F.mse_loss(guess_NCHW, teacher_NCHW), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(teacher_NCHW.shape[2:]):
            weight /= 2
            weights += weight
            guess, teacher = (F.adaptive_avg_pool2d(each, side) for each in (guess_NCHW, teacher_NCHW))
            total = total + weight * F.mse_loss(guess, teacher)
    return total / weights
