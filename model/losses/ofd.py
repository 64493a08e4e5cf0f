"""A comprehensive overhaul: match what comes before the ReLU, but not how far below 0 the teacher's silent units are.

Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, sec. 3. https://arxiv.org/abs/1904.01866
    mean over batch of the sum over stages of 2^-(stages behind it) * sum over channels and positions of
    (max(teacher, m_c) - connector(student))^2, but 0 where connector(student) <= max(teacher, m_c) <= 0
The margin m_c is the mean of a channel's negative responses. The paper measures it in training, or computes it from the
batch norm before the ReLU, if there is one, as though responses were Gaussian; the authors' code does the latter. Here
it is measured, over all batches so far, so that any network can teach. The authors' teacher normalises with the batch's
statistics; here, as always, with its own. The weight is that of the authors and of mdistiller for CIFAR-100, beside
{"ce": {}}; on ImageNet it is 1e-4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, before_relu, paired


@LOSSES.register("ofd")
class OverhaulOfFeatureDistillation(DistillLoss):
    """Partial squared distance of the maps before their ReLU, deep stages first in weight; uses no labels.

    Args:
        layers: Numbers of the stages that are compared, from 1, or pairs of them (student's, teacher's); shallow first.
    """

    needs = frozenset({"preacts"})
    global_batch: frozenset[Part] = frozenset({"preacts"})  # margins are of all images so far
    published = TermOptions(weight=1e-3)

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.connectors = nn.ModuleList()
        self.margins = nn.ModuleList()

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        for student_NCHW, teacher_NCHW in self.pairs(setting.student, setting.teacher):
            self.connectors.append(connector(student_NCHW.shape[1], teacher_NCHW.shape[1]))
            self.margins.append(MarginReLU(teacher_NCHW.shape[1]))

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return paired(before_relu(student, "student"), before_relu(teacher, "teacher"), self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.connectors, self.margins, self.pairs(student, teacher), strict=True)
        distances = [partial_distance(connect(one), margin(other)) for connect, margin, (one, other) in stages]
        return torch.stack([each / 2**behind for behind, each in enumerate(reversed(distances))]).sum()


class MarginReLU(nn.Module):
    """max(response, m_c), m_c being the mean of a channel's negative responses in all calls so far, this one included.

    Where a channel had none, m_c is 0, and no response is below it.
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


def partial_distance(guess_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """Squared distance per image, the mean over the batch; nothing where a silent unit is guessed to be more silent."""
    silent_NCHW = (guess_NCHW <= target_NCHW) & (target_NCHW <= 0)
    squares_NCHW = (guess_NCHW - target_NCHW).square().masked_fill(silent_NCHW, 0)
    return squares_NCHW.sum(dim=(1, 2, 3)).mean()
