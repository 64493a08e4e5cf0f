"""Knowledge review: every stage of the student, fused with the deeper ones, predicts the teacher's map.

Chen, Liu, Zhao and Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, sec. 3. https://arxiv.org/abs/2104.09044
    sum over levels of the hierarchical distance of prediction and teacher, with prediction = outer(fused) and
    fused = gate_1 * inner(map) + gate_2 * fused of the next deeper level, starting at the deepest level
Levels are the stages and, as the deepest one, the embedding as a map of one position. As in the authors' code, the
student's maps are taken after their ReLU, the teacher's before it. The weight and its warm-up are mdistiller's for
CIFAR-100, with {"ce": {}}; the authors tuned the weight for each pair of networks, from 0.6 to 8. The factor of the
warm-up rises with every step, from 0; mdistiller's is constant within an epoch, the epoch's number, from 1, divided by
20. Batch norm of the embedding needs two images in a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, before_relu, select_pairs

MAX_CHANNELS = 512  # of the fused maps


@LOSSES.register("reviewkd", default_term=TermOptions(weight=1.0, warmup_epochs=20.0))
class KnowledgeReview(DistillLoss):
    """Hierarchical distance of the teacher's maps and the student's fused ones, summed over levels; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's); shallow to deep.
    """

    needs = frozenset({"preacts", "embedding"})
    labels = "none"

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.fusions = nn.ModuleList()  # shallow to deep

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        pairs = self.feature_pairs(context.student, context.teacher)
        channels = min(MAX_CHANNELS, context.student.embedding.shape[1])
        for level, (student_NCHW, teacher_NCHW) in enumerate(pairs, start=1):
            in_channels, out_channels = student_NCHW.shape[1], teacher_NCHW.shape[1]
            self.fusions.append(Fusion(in_channels, channels, out_channels, gated=level < len(pairs)))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        pairs = select_pairs(student.maps, before_relu(teacher, "teacher"), self.layers)
        return [*pairs, (student.embedding[:, :, None, None], teacher.embedding[:, :, None, None])]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        if len(student.embedding) < 2:
            raise ValueError("a batch needs 2 images or more, got 1")
        levels = list(zip(self.fusions, self.feature_pairs(student, teacher), strict=True))
        distances, fused_NCHW = [], None
        for fusion, (student_NCHW, teacher_NCHW) in reversed(levels):
            predicted_NCHW, fused_NCHW = fusion(student_NCHW, fused_NCHW, teacher_NCHW.shape[2:])
            distances.append(hierarchical_distance(predicted_NCHW, teacher_NCHW))
        return torch.stack(distances).sum()


class Fusion(nn.Module):
    """Attention-based fusion of a map with the fused map of the next deeper level.

    Args:
        channels: Channels of the fused map.
        out_channels: Channels of the prediction.
        gated: Whether there is a deeper level.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, gated: bool) -> None:
        super().__init__()
        self.inner = convolution(in_channels, channels, kernel_size=1)
        self.gates = nn.Sequential(nn.Conv2d(2 * channels, 2, kernel_size=1), nn.Sigmoid()) if gated else None
        self.outer = convolution(channels, out_channels, kernel_size=3)

    def forward(self, map_NCHW: Tensor, deeper_NCHW: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The prediction and the fused map, both at the height and width of `size`."""
        fused_NCHW: Tensor = self.inner(map_NCHW)
        if self.gates is not None:
            assert deeper_NCHW is not None
            deeper_NCHW = F.interpolate(deeper_NCHW, size=fused_NCHW.shape[2:])  # repeats the nearest value
            gates_N2HW = self.gates(torch.cat([fused_NCHW, deeper_NCHW], dim=1))
            fused_NCHW = gates_N2HW[:, :1] * fused_NCHW + gates_N2HW[:, 1:] * deeper_NCHW
        if fused_NCHW.shape[2:] != size:
            fused_NCHW = F.interpolate(fused_NCHW, size=size)
        return self.outer(fused_NCHW), fused_NCHW


def convolution(in_channels: int, out_channels: int, *, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def hierarchical_distance(predicted_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Weighted mean of mean squared differences: of the maps, and of the maps averaged down to 4x4, 2x2 and 1x1.

    Each has half the weight of the one before; sizes that are not smaller than the map are left out.
    """
    total, weight, weights = F.mse_loss(predicted_NCHW, teacher_NCHW), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(teacher_NCHW.shape[2:]):
            weight /= 2
            weights += weight
            predicted, target = (F.adaptive_avg_pool2d(map_NCHW, side) for map_NCHW in (predicted_NCHW, teacher_NCHW))
            total = total + weight * F.mse_loss(predicted, target)
    return total / weights
