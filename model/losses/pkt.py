"""Probabilistic knowledge transfer: match the probabilities that images are neighbours of one another.

Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018.
https://arxiv.org/abs/1803.10837
    mean over i, j of p_ij * log(p_ij / q_ij), with p_ij = (cos(x_i, x_j) + 1) / 2 over the sum of row i,
p for the teacher's embeddings x and q likewise for the student's. Follows the authors' code: an image is a neighbour of
itself, 1e-7 is added to both probabilities within the logarithm, and the mean is over all N^2 pairs, so larger batches
give smaller values: a row's divergence, averaged over the batch, would be N times as large. Lengths of embeddings are
bounded below by 1e-12, where the authors' code adds 1e-7 to them: its cosines are smaller by a factor of
1 + 1e-7 / length, which float32 does not resolve for embeddings of length 1 or more. The weight is that of RepDistiller
with {"ce": {}}, for batches of 64.
"""

from __future__ import annotations

from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part, TermOptions
from .base import DistillLoss
from .relations import l2_normalize, require_batch

EPSILON = 1e-7


@LOSSES.register("pkt", default_term=TermOptions(weight=30000.0))
class ProbabilisticKnowledgeTransfer(DistillLoss):
    """Divergence of the neighbour probabilities within a batch, by cosines of embeddings; uses no labels."""

    needs = frozenset({"embedding"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_student_NN = neighbour_probabilities(student.embedding)
        p_teacher_NN = neighbour_probabilities(teacher.embedding)
        return (p_teacher_NN * ((p_teacher_NN + EPSILON) / (p_student_NN + EPSILON)).log()).mean()


def neighbour_probabilities(embedding_ND: Tensor) -> Tensor:
    """The probability that each image is a neighbour of the row's image: (N, D) to (N, N), rows sum to 1."""
    direction_ND = l2_normalize(require_batch(embedding_ND))
    similarity_NN = (direction_ND @ direction_ND.T + 1) / 2
    return similarity_NN / similarity_NN.sum(dim=1, keepdim=True)
