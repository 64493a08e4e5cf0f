"""Activation boundaries: learn which of the teacher's units are active, with a margin, and not how much.

Heo, Lee, Yun and Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
AAAI 2019, sec. 3, the alternative loss. https://arxiv.org/abs/1811.03233
    mean over batch of the sum over stages of 2^-(stages behind it) * sum over channels and positions of
    max(0, margin - s)^2 where the teacher's unit is active, max(0, margin + s)^2 where it is not
s is what the student's map before its ReLU becomes in a connector, a convolution with batch norm; a map that has the
teacher's shape is taken as it is. The weight is that of the authors' code. A loss for a first stage: a folder with
{"ab": {}} and nothing else, 30 epochs in the collections that compare methods; then one that begins with its weights
and learns from labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, TermOptions
from .base import DistillLoss
from .fitnet import regressor
from .maps import Layers, Pair, before_relu, select_pairs


@LOSSES.register("ab")
class ActivationBoundaries(DistillLoss):
    """Squared distance from the right side of the teacher's activation boundaries, deep stages first in weight.

    Uses no labels; leaves the student's classifier as it is.

    Args:
        layers: Numbers of the stages that are compared, from 1, or pairs of them (student's, teacher's); shallow first.
        margin: How far on the right side of 0 a unit costs nothing.
    """

    needs = frozenset({"preacts"})
    published = TermOptions(weight=3e-3)

    def __init__(self, *, layers: Layers | None = None, margin: float = 1.0) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        self.layers, self.margin = layers, margin
        self.connectors = nn.ModuleList()

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        self.connectors.extend(connector(*pair) for pair in self.pairs(setting.student, setting.teacher))

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return select_pairs(before_relu(student, "student"), before_relu(teacher, "teacher"), self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.connectors, self.pairs(student, teacher), strict=True)
        distances = [self._distance(connect(one), other) for connect, (one, other) in stages]
        return torch.stack([each / 2**behind for behind, each in enumerate(reversed(distances))]).sum()

    def _distance(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        towards_NCHW = torch.where(teacher_NCHW > 0, student_NCHW, -student_NCHW)
        return F.relu(self.margin - towards_NCHW).square().sum(dim=(1, 2, 3)).mean()


def connector(student_NCHW: Tensor, teacher_NCHW: Tensor) -> nn.Module:
    if student_NCHW.shape[1:] == teacher_NCHW.shape[1:]:
        return nn.Identity()
    return regressor(student_NCHW, teacher_NCHW)
