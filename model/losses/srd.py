"""A simple recipe for distillation: a linear projector, batch norm and a soft maximum of the distances.

Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024.
https://arxiv.org/abs/2303.11098
    log of the sum over images and dimensions of |norm(linear(student)) - norm(teacher)|^4, of embeddings,
norm being batch norm with the batch's statistics and without parameters, 1e-4 added to the variance. It is the log of a
sum, so the value grows with the batch. Follows the authors' code for ImageNet, which has weight 2 with
{"ce": {}, "kd": {"alpha": 1.0, "temperature": 1.0}}.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .relations import require_batch


@LOSSES.register(
    "srd",
    default_term=TermOptions(weight=2.0),
    example={"loss": {"ce": {}, "kd": {"alpha": 1.0, "temperature": 1.0}, "srd": {}}},
)
class SimpleRecipeDistillation(DistillLoss):
    """Soft maximum of the distances between normalised embeddings, the student's projected; uses no labels.

    Args:
        exponent: Power of the distances; 1 or more.
    """

    needs = frozenset({"embedding"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    def __init__(self, *, exponent: float = 4.0) -> None:
        super().__init__()
        if exponent < 1:
            raise ValueError(f"exponent must be 1 or more, got {exponent}")
        self.exponent = exponent

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.projector = nn.Linear(context.student.embedding.shape[1], context.teacher.embedding.shape[1])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        distance_ND = normalised(self.projector(student.embedding)) - normalised(teacher.embedding)
        return distance_ND.abs().pow(self.exponent).sum().log()


def normalised(embedding_ND: Tensor) -> Tensor:
    """Each dimension with mean 0 and variance 1 over the batch."""
    return F.batch_norm(require_batch(embedding_ND), None, None, training=True, eps=1e-4)
