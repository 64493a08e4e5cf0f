"""A comprehensive overhaul: match the maps before the ReLU, but not how negative the teacher's inactive units are.

Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, sec. 3. https://arxiv.org/abs/1904.01866
    mean over the batch of the sum over stages of 2^-(number of deeper stages) * sum over channels and positions of
    (max(teacher, m_c) - connector(student))^2, but 0 where connector(student) <= max(teacher, m_c) <= 0
The margin m_c is the mean of a channel's negative responses. The paper measures it in training, or computes it from the
batch norm before the ReLU, if there is one, as though responses were Gaussian; the authors' code does the latter. Here
it is measured, over all batches so far, so that any network can be the teacher. The authors' teacher normalises with
the batch's statistics, here it is in eval mode, as always. The weight is that of the authors and of mdistiller for
CIFAR-100, with {"ce": {}}; on ImageNet it is 1e-4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, before_relu, paired


@LOSSES.register("ofd", default_term=TermOptions(weight=1e-3))
class OverhaulOfFeatureDistillation(DistillLoss):
    """Partial squared distance of the maps before their ReLU, deep stages weighted most; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's); shallow to deep.
    """

    needs = frozenset({"preacts"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"preacts"})  # margins are means over all images so far

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.connectors = nn.ModuleList()
        self.margins = nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        for student_NCHW, teacher_NCHW in self.feature_pairs(context.student, context.teacher):
            self.connectors.append(connector(student_NCHW.shape[1], teacher_NCHW.shape[1]))
            self.margins.append(MarginReLU(teacher_NCHW.shape[1]))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return paired(before_relu(student, "student"), before_relu(teacher, "teacher"), self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.connectors, self.margins, self.feature_pairs(student, teacher), strict=True)
        distances = [
            partial_distance(connect(student_NCHW), margin_relu(teacher_NCHW))
            for connect, margin_relu, (student_NCHW, teacher_NCHW) in stages
        ]
        return torch.stack([distance / 2**deeper for deeper, distance in enumerate(reversed(distances))]).sum()


class MarginReLU(nn.Module):
    """max(response, m_c), with m_c the mean of a channel's negative responses in all calls so far, this one included.

    For a channel without negative responses, m_c is 0.
    """

    margin: Tensor  # (C,)
    count: Tensor  # (C,), negative responses so far

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("margin", torch.zeros(num_channels))
        self.register_buffer("count", torch.zeros(num_channels, dtype=torch.long))

    @torch.no_grad()
    def forward(self, map_NCHW: Tensor) -> Tensor:
        count_C = (map_NCHW < 0).sum(dim=(0, 2, 3))
        sum_C = map_NCHW.clamp(max=0).sum(dim=(0, 2, 3))
        self.count += count_C
        self.margin += (sum_C - count_C * self.margin) / self.count.clamp(min=1)
        return torch.maximum(map_NCHW, self.margin[:, None, None])


def connector(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / out_channels))
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def partial_distance(predicted_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """Squared distance per image, the mean over the batch; 0 where an inactive unit is predicted below its target."""
    inactive_NCHW = (predicted_NCHW <= target_NCHW) & (target_NCHW <= 0)
    squares_NCHW = (predicted_NCHW - target_NCHW).square().masked_fill(inactive_NCHW, 0)
    return squares_NCHW.sum(dim=(1, 2, 3)).mean()
