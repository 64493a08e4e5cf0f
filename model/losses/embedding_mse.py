"""Regression of embeddings: match, value for value, what the two classifiers read.

The term that hankyul2's KnowledgeDistillation calls Logits, weight 1 beside {"ce": {}}; what it compares are not logits
but the features in front of the last layer. https://github.com/hankyul2/KnowledgeDistillation
    mean over batch and features of (student - teacher)^2
The regression of logits proper is `logits`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss


@LOSSES.register("embedding_mse")
class EmbeddingRegression(DistillLoss):
    """Mean squared difference of the embeddings, which must be equally wide; uses no labels."""

    needs = frozenset({"embedding"})

    def __init__(self) -> None:
        super().__init__()

    def pairs(self, student: Output, teacher: Output) -> list[tuple[Tensor, Tensor]]:
        return [(student.embedding, teacher.embedding)]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        width, teachers = student.embedding.shape[1], teacher.embedding.shape[1]
        if width != teachers:
            raise ValueError(
                f"embeddings must be equally wide: the student's has {width} values, the teacher's {teachers}"
            )
        return F.mse_loss(student.embedding, teacher.embedding)
