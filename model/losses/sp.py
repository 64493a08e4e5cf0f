"""Similarity-preserving distillation: images that are similar for the teacher should be similar for the student.

Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019. https://arxiv.org/abs/1907.09682
    |G_teacher - G_student|^2 / N^2, with G the scalar products of the last maps of each two images, (N, N),
each of its rows at unit length. Maps may differ in channels, height and width. A row's length depends on the other
images, so larger batches give smaller values. The weight is RepDistiller's with {"ce": {}}.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part, TermOptions
from .base import DistillLoss
from .maps import deepest
from .relations import l2_normalize, require_batch


@LOSSES.register("sp", default_term=TermOptions(weight=3000.0))
class SimilarityPreserving(DistillLoss):
    """Mean squared distance between the similarities of the batch's images, by the last maps; uses no labels."""

    needs = frozenset({"maps"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"maps"})

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NCHW, teacher_NCHW = deepest(student.maps, teacher.maps)
        return F.mse_loss(similarities(student_NCHW), similarities(teacher_NCHW))


def similarities(map_NCHW: Tensor) -> Tensor:
    """Scalar products of the images' maps, each row at unit length: (N, C, H, W) to (N, N)."""
    flat_ND = require_batch(map_NCHW).flatten(1)
    return l2_normalize(flat_ND @ flat_ND.T)
