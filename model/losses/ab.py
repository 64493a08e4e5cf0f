"""Activation boundaries: learn which of the teacher's units are active, with a margin, and not how much.

Heo, Lee, Yun and Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
AAAI 2019, sec. 3, the alternative loss. https://arxiv.org/abs/1811.03233
    mean over the batch of the sum over stages of 2^-(number of deeper stages) * sum over channels and positions of
    max(0, margin - s)^2 where the teacher's unit is active, max(0, margin + s)^2 where it is not
s is the student's map before its ReLU, passed through a connector, a convolution with batch norm; a map that already
has the teacher's shape is compared as it is. The weight is that of the authors' code. A loss for the first of two
stages: a folder with {"ab": {}} alone, trained for 30 epochs in the repositories that compare methods; then a folder
that starts from its weights and learns from labels.
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


@LOSSES.register("ab", default_term=TermOptions(weight=3e-3), example={"loss": {"ab": {}}})
class ActivationBoundaries(DistillLoss):
    """Squared distance to the teacher's side of each activation boundary, deep stages weighted most.

    Uses no labels and gives the student's classifier no gradient.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's); shallow to deep.
        margin: Distance from 0, on the teacher's side, from which on a unit costs nothing.
    """

    needs = frozenset({"preacts"})
    labels = "none"

    def __init__(self, *, layers: Layers | None = None, margin: float = 1.0) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        self.layers, self.margin = layers, margin
        self.connectors = nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.connectors.extend(connector(*pair) for pair in self.feature_pairs(context.student, context.teacher))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return select_pairs(before_relu(student, "student"), before_relu(teacher, "teacher"), self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        stages = zip(self.connectors, self.feature_pairs(student, teacher), strict=True)
        distances = [
            self._distance(connect(student_NCHW), teacher_NCHW) for connect, (student_NCHW, teacher_NCHW) in stages
        ]
        return torch.stack([distance / 2**deeper for deeper, distance in enumerate(reversed(distances))]).sum()

    def _distance(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        signed_NCHW = torch.where(teacher_NCHW > 0, student_NCHW, -student_NCHW)  # positive on the teacher's side
        return F.relu(self.margin - signed_NCHW).square().sum(dim=(1, 2, 3)).mean()


def connector(student_NCHW: Tensor, teacher_NCHW: Tensor) -> nn.Module:
    if student_NCHW.shape[1:] == teacher_NCHW.shape[1:]:
        return nn.Identity()
    return regressor(student_NCHW, teacher_NCHW)
