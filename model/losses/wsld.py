"""Weighted soft labels: the teacher has most weight where the student is worse than it, and little where it is better.

Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective", ICLR 2021.
https://arxiv.org/abs/2102.00650
    mean over the batch of w * T^2 * cross-entropy(teacher_T, student_T), with
    w = 1 - exp(-CE(student, label) / (CE(teacher, label) + 1e-7)), no gradient through w.
A cross-entropy, as in the authors' code, so the value is not 0 for a student with the teacher's outputs. The weight is
their alpha for CIFAR-100 with {"ce": {}} (ImageNet: weight 2.5, temperature 2).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss


@LOSSES.register("wsld", default_term=TermOptions(weight=2.25))
class WeightedSoftLabelDistillation(DistillLoss):
    """Cross-entropy with the softened teacher, each image weighted by both networks' cross-entropy with its label.

    Args:
        temperature: Divides the logits of both networks in the soft part; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "single"

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_teacher_NK = (teacher.logits / self.temperature).softmax(dim=1)
        soft_N = -(p_teacher_NK * F.log_softmax(student.logits / self.temperature, dim=1)).sum(dim=1)
        student_N = F.cross_entropy(student.logits.detach(), batch.labels, reduction="none")
        teacher_N = F.cross_entropy(teacher.logits, batch.labels, reduction="none")
        weight_N = -(-student_N / (teacher_N + 1e-7)).expm1()
        return self.temperature**2 * (weight_N * soft_N).mean()
