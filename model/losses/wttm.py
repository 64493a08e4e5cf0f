"""Weighted transformed teacher matching: images have more weight the less confident the teacher is.

Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024.
https://arxiv.org/abs/2402.11148
    mean over the batch of U * KL(q || p_student), with U = sum of p_teacher^gamma, and q as in `ttm`.
U is 1 for a teacher that is certain and K^(1 - gamma) for a uniform one. Used with {"ce": {}}. The authors chose gamma
and the weight for each pair of networks; the defaults are theirs for vgg13 to vgg8 on CIFAR-100, there with `crd`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .ttm import TransformedTeacherMatching


@LOSSES.register("wttm", default_term=TermOptions(weight=4.0))
class WeightedTransformedTeacherMatching(TransformedTeacherMatching):
    """As `ttm`, with each image's divergence multiplied by the sum of the powers; uses no labels.

    Args:
        gamma: The power; above 0.
    """

    def __init__(self, *, gamma: float = 0.2) -> None:
        super().__init__(gamma=gamma)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        sum_N = (self.gamma * F.log_softmax(teacher.logits, dim=1)).exp().sum(dim=1)
        return (sum_N * self.divergence(student, teacher)).mean()
