"""Relational knowledge distillation: match the distances between images, and the angles between three of them.

Park et al., "Relational Knowledge Distillation", CVPR 2019, sec. 3.2. https://arxiv.org/abs/1904.05068
    25 * mean of huber(d_ij / mean d, the same of the teacher)
    + 50 * mean of huber(cos of the angle at i between j and k, the same of the teacher),
of embeddings, over all N^2 pairs and N^3 triples, the degenerate ones included.
Distances are computed from differences, as scalar products are inexact for close embeddings. Two images with equal
embeddings have the distance 1e-6, no direction and no gradient. The two factors are RepDistiller's with {"ce": {}};
the paper has 1 and 2 for metric learning. Memory: N^2 D + N^3 numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part
from .base import DistillLoss
from .relations import l2_normalize, require_batch


@LOSSES.register("rkd")
class RelationalKnowledgeDistillation(DistillLoss):
    """Huber distance between the batch's distances and angles, by embeddings; uses no labels.

    Args:
        distance_weight: Factor of the distances between two images; 0 or more.
        angle_weight: Factor of the angles between three images; 0 or more.
    """

    needs = frozenset({"embedding"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        for name, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NND, teacher_NND = differences(student.embedding), differences(teacher.embedding)
        distance = F.smooth_l1_loss(relative_distances(student_NND), relative_distances(teacher_NND))
        angle = F.smooth_l1_loss(cosines(student_NND), cosines(teacher_NND))
        return self.distance_weight * distance + self.angle_weight * angle


def differences(embedding_ND: Tensor) -> Tensor:
    """The vectors from each image to every other: (N, D) to (N, N, D)."""
    return require_batch(embedding_ND)[None] - embedding_ND[:, None]


def relative_distances(difference_NND: Tensor) -> Tensor:
    """Distances divided by their mean; 0 on the diagonal: (N, N, D) to (N, N)."""
    N = len(difference_NND)
    off_diagonal_NN = 1 - torch.eye(N, dtype=difference_NND.dtype, device=difference_NND.device)
    distance_NN = difference_NND.square().sum(dim=2).clamp(min=1e-12).sqrt() * off_diagonal_NN
    return distance_NN * (N * (N - 1) / distance_NN.sum())


def cosines(difference_NND: Tensor) -> Tensor:
    """The cosine of the angle at each image between every two others: (N, N, D) to (N, N, N)."""
    direction_NND = l2_normalize(difference_NND)
    return direction_NND @ direction_NND.transpose(1, 2)
