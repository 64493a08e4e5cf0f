"""DIST: correlate with the teacher's probabilities instead of matching their values.

Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022. https://arxiv.org/abs/2205.10536
    T^2 * (beta * (1 - mean over images of r(row)) + gamma * (1 - mean over classes of r(column))),
with r Pearson's correlation of the student's and the teacher's probabilities: of an image over the classes, of a class
over the images of the batch. The second depends on which images a batch has; for a single image r is 0, without a
gradient. As in the authors' code 1e-8 is added to the product of the two lengths. Used with {"ce": {}}; the authors
have temperature 4 for CIFAR-100, the default, and 1 for ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part
from .base import DistillLoss


@LOSSES.register("dist")
class DistillationFromAStrongerTeacher(DistillLoss):
    """One minus the correlation of the softened probabilities, over classes and over images; uses no labels.

    Args:
        beta: Factor of the relation between classes; 0 or more.
        gamma: Factor of the relation between images; 0 or more.
        temperature: Divides the logits of both networks; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"logits"})

    def __init__(self, *, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("gamma", gamma)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_student_NK = (student.logits / self.temperature).softmax(dim=1)
        p_teacher_NK = (teacher.logits / self.temperature).softmax(dim=1)
        inter = 1 - correlation(p_student_NK, p_teacher_NK).mean()
        intra = 1 - correlation(p_student_NK.T, p_teacher_NK.T).mean()
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def correlation(one_RM: Tensor, other_RM: Tensor) -> Tensor:
    """Pearson's correlation of each row: (R, M) twice to (R,)."""
    one_RM = one_RM - one_RM.mean(dim=1, keepdim=True)
    other_RM = other_RM - other_RM.mean(dim=1, keepdim=True)
    lengths_R = torch.linalg.vector_norm(one_RM, dim=1) * torch.linalg.vector_norm(other_RM, dim=1)
    return torch.div((one_RM * other_RM).sum(dim=1), lengths_R + 1e-8)
