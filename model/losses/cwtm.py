"""Confidence weighted by teacher max: the teacher's confidence weights the labels, and is all that is used of it.

Furlanello et al., "Born-Again Neural Networks", ICML 2018, sec. 3.3. https://arxiv.org/abs/1805.04770
A control experiment: it has the importance weights of distillation, the teacher's largest probabilities, but no dark
knowledge. Includes the labels, so it is used without `ce`.
"""

from __future__ import annotations

from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part
from .base import DistillLoss
from .ce import cross_entropies


@LOSSES.register("cwtm", example={"loss": {"cwtm": {}}})
class ConfidenceWeightedByTeacherMax(DistillLoss):
    """Cross-entropy with the labels, weighted by the teacher's largest probability; a batch's weights sum to 1."""

    needs = frozenset({"probabilities"})
    labels = "mixed"
    global_batch: frozenset[Part] = frozenset({"logits"})

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        confidence_N = teacher.logits.softmax(dim=1).amax(dim=1)
        loss_N = cross_entropies(student.logits, batch)
        return (confidence_N / confidence_N.sum() * loss_N).sum()
