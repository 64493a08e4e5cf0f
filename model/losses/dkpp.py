"""Dark knowledge with permuted predictions: the teacher's probabilities, all but the largest one permuted.

Furlanello et al., "Born-Again Neural Networks", ICML 2018, sec. 3.3. https://arxiv.org/abs/1805.04770
A control experiment: it keeps the teacher's confidence and the higher moments of its probabilities, but not which
classes it considers similar. Uses no labels, and is used alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss


@LOSSES.register("dkpp", example={"loss": {"dkpp": {}}})
class DarkKnowledgeWithPermutedPredictions(DistillLoss):
    """Cross-entropy with the teacher's permuted probabilities; every image gets a new permutation at every step."""

    needs = frozenset({"probabilities"})
    labels = "none"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        target_NK = permuted(teacher.logits.softmax(dim=1))
        return -(target_NK * F.log_softmax(student.logits, dim=1)).sum(dim=1).mean()


def permuted(p_NK: Tensor) -> Tensor:
    """Each row with its largest value in place and the others permuted at random: (N, K) to (N, K)."""
    largest_N1 = p_NK.argmax(dim=1, keepdim=True)
    random_NK = torch.rand_like(p_NK).scatter(1, largest_N1, -1.0)
    source_NK = random_NK.argsort(dim=1)  # the largest first, then the others in random order
    target_NK = torch.ones_like(p_NK).scatter(1, largest_N1, 0.0).argsort(dim=1, stable=True)  # the others in order
    return torch.zeros_like(p_NK).scatter(1, target_NK, p_NK.gather(1, source_NK))
