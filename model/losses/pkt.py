"""Probabilistic knowledge transfer: an image's neighbours are the teacher's, by how likely each is one.

Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018.
https://arxiv.org/abs/1803.10837
    mean over i, j of p_ij * log(p_ij / q_ij), with p_ij = (cos(x_i, x_j) + 1) / 2 over the sum of row i,
p of the teacher's embeddings x and q likewise of the student's. Follows the authors' code: an image is a neighbour of
itself, 1e-7 is added within the logarithm, and the mean is over all N^2 pairs, so larger batches give smaller values:
the divergence of a row, in the mean over the batch, is N times as large. The weight is RepDistiller's beside
{"ce": {}}, for batches of 64.
"""

from __future__ import annotations

from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part, TermOptions
from .base import DistillLoss
from .relations import l2_normalize, require_batch

EPSILON = 1e-7


@LOSSES.register("pkt")
class ProbabilisticKnowledgeTransfer(DistillLoss):
    """Divergence of the batch's neighbourhoods, by cosines of embeddings; uses no labels."""

    needs = frozenset({"embedding"})
    global_batch: frozenset[Part] = frozenset({"embedding"})
    published = TermOptions(weight=30000.0)

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_student_NN, p_teacher_NN = neighbours(student.embedding), neighbours(teacher.embedding)
        return (p_teacher_NN * ((p_teacher_NN + EPSILON) / (p_student_NN + EPSILON)).log()).mean()


def neighbours(embedding_ND: Tensor) -> Tensor:
    """How likely each image is a neighbour of the row's: (N, D) to (N, N), rows sum to 1."""
    direction_ND = l2_normalize(require_batch(embedding_ND))
    similarity_NN = (direction_ND @ direction_ND.T + 1) / 2
    return similarity_NN / similarity_NN.sum(dim=1, keepdim=True)
