"""Regression of embeddings: match the inputs of the two classifiers value by value.

The loss that hankyul2's KnowledgeDistillation calls Logits, with weight 1 with {"ce": {}}; it compares the features
before the last layer, not logits. https://github.com/hankyul2/KnowledgeDistillation
    mean over batch and features of (student - teacher)^2
The regression of logits is `logits`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss


@LOSSES.register("embedding_mse", example={"student.num_channels": 16})
class EmbeddingRegression(DistillLoss):
    """Mean squared difference of the embeddings, which must have equal widths; uses no labels."""

    needs = frozenset({"embedding"})
    labels = "none"

    def __init__(self) -> None:
        super().__init__()

    def feature_pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        return [(student.embedding, teacher.embedding)]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        width, teacher_width = student.embedding.shape[1], teacher.embedding.shape[1]
        if width != teacher_width:
            raise ValueError(
                f"embeddings must have equal widths: the student's has {width} values, the teacher's {teacher_width}"
            )
        return F.mse_loss(student.embedding, teacher.embedding)
