"""Correlation congruence as RepDistiller has it: the products of consecutive images' distances from the teacher.

Under the name of Peng et al., ICCV 2019 (https://arxiv.org/abs/1904.01802), whose own objective is `cc`.
    mean over consecutive images of sum over dimensions of delta_i * delta_(i+1), with
    delta_i = |linear(student_i) - linear'(teacher_i)|,
with two trained projections of the embeddings. As both are trained, they can agree by ignoring the image. Images are
consecutive in the order of the batch. The weight is RepDistiller's with {"ce": {}}; its published tables list this
loss as "CC".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .relations import require_batch


@LOSSES.register("cc_linear", default_term=TermOptions(weight=0.02))
class LinearCorrelationCongruence(DistillLoss):
    """Products of consecutive images' distances, by trained projections of both embeddings; uses no labels.

    Args:
        embedding_size: Dimensions of both projections; 1 or more.
    """

    needs = frozenset({"embedding"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    def __init__(self, *, embedding_size: int = 128) -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be 1 or more, got {embedding_size}")
        self.embedding_size = embedding_size

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.project_student = nn.Linear(context.student.embedding.shape[1], self.embedding_size)
        self.project_teacher = nn.Linear(context.teacher.embedding.shape[1], self.embedding_size)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NE = self.project_student(require_batch(student.embedding))
        delta_NE = torch.sub(student_NE, self.project_teacher(teacher.embedding)).abs()
        return (delta_NE[:-1] * delta_NE[1:]).sum(dim=1).mean()
