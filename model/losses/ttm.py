"""Transformed teacher matching: temperature for the teacher alone.

Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024.
https://arxiv.org/abs/2402.11148
    mean over the batch of KL(q || p_student), with q = p_teacher^gamma over its sum,
which is the teacher at temperature 1 / gamma; the student is at 1. Used with {"ce": {}}. The authors chose gamma and
the weight for each pair of networks; the defaults are theirs for vgg13 to vgg8 on CIFAR-100.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .probabilities import kl


@LOSSES.register("ttm", default_term=TermOptions(weight=45.0))
class TransformedTeacherMatching(DistillLoss):
    """Divergence of the student's probabilities from a power of the teacher's; uses no labels.

    Args:
        gamma: The power; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "none"

    def __init__(self, *, gamma: float = 0.1) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.gamma = gamma

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.divergence(student, teacher).mean()

    def divergence(self, student: Output, teacher: Output) -> Tensor:
        """The divergence of each image: (N,)."""
        return kl(F.log_softmax(self.gamma * teacher.logits, dim=1), F.log_softmax(student.logits, dim=1))
