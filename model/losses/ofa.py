"""One for all: the teacher's probabilities, with the label's class enhanced.

Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS 2023.
https://arxiv.org/abs/2310.19444
    mean over the batch of -sum over classes of ((p_teacher + y)^gamma - y) * log p_student, y 1 for the label's class.
At gamma 1, the authors' for CIFAR-100, it is the cross-entropy with the teacher; they have 1.5 for ImageNet.
Only the loss of the final logits is here: the paper has the same also on branches that turn the maps of each stage into
logits. Beside {"ce": {}}.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses.base import DistillLoss
from model.registry import LOSSES
from model.types import Batch, Output


@LOSSES.register("ofa")
class OneForAll(DistillLoss):
    """Cross-entropy with the teacher's probabilities, the label's raised as a power.

    Args:
        gamma: The power; 1 or more.
    """

    needs = frozenset({"probabilities"})

    def __init__(self, *, gamma: float = 1.0) -> None:
        super().__init__()
        if gamma < 1:
            raise ValueError(f"gamma must be 1 or more, got {gamma}")
        self.gamma = gamma

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_teacher_NK = teacher.logits.softmax(dim=1)
        label_NK = torch.zeros_like(p_teacher_NK).scatter(1, batch.labels[:, None], 1.0)
        target_NK = (p_teacher_NK + label_NK) ** self.gamma - label_NK
        return -(target_NK * F.log_softmax(student.logits, dim=1)).sum(dim=1).mean()
