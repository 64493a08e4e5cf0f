"""Normalised knowledge distillation: cross-entropy of the label's class, and of the other classes' own distribution.

Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels", ICCV 2023. https://arxiv.org/abs/2303.13005
    -p_teacher(y) * log p_student(y) - gamma * T^2 * sum over the other classes of q_teacher * log q_student,
the mean over the batch, with p at temperature 1, y the label and q the distribution over the other classes alone, at
temperature T. Both are cross-entropies: the value is not 0 for a student with the teacher's outputs. With two classes
the second part is 0. Used with {"ce": {}}; defaults are the authors' for CIFAR-100 (temperature 1, gamma 1.5 for
ImageNet).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss
from .probabilities import non_target_logits, target_values


@LOSSES.register("nkd")
class NormalizedKnowledgeDistillation(DistillLoss):
    """Cross-entropy of the label's class, weighted by the teacher's probability, and of the other classes.

    Args:
        gamma: Factor of the other classes; 0 or more.
        temperature: Divides the logits of the other classes in both networks; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "single"

    def __init__(self, *, gamma: float = 3.5, temperature: float = 3.0) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma must be 0 or more, got {gamma}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.gamma, self.temperature = gamma, temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_teacher_N = target_values(teacher.logits.softmax(dim=1), batch.labels)
        label_N = -p_teacher_N * target_values(F.log_softmax(student.logits, dim=1), batch.labels)
        q_teacher_NR = (non_target_logits(teacher.logits, batch.labels) / self.temperature).softmax(dim=1)
        log_q_student_NR = F.log_softmax(non_target_logits(student.logits, batch.labels) / self.temperature, dim=1)
        rest_N = -(q_teacher_NR * log_q_student_NR).sum(dim=1)
        return (label_N + self.gamma * self.temperature**2 * rest_N).mean()
