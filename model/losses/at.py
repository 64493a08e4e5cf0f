"""Attention transfer: match where the maps are active, not what they contain.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2. https://arxiv.org/abs/1612.03928
Follows the authors' code: the mean over positions of the squared difference, where eq. 2 has its norm. The weight is
the one that they published for it, with {"ce": {}}; pytorch-moonshine and RepDistiller use it, too.

The attention of an image has length 1, so the mean of its squares falls with the number of positions: at the same angle
between two attentions, a map of 8x8 counts 16 times as much as one of 32x32. Stages are summed. So a network that
returns s maps a stage needs a weight of 1000 / s (pytorch-moonshine divides by s itself), and a weight of 1000 in code
that averages three stages is 333 here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, paired


@LOSSES.register("at", default_term=TermOptions(weight=1000.0))
class AttentionTransfer(DistillLoss):
    """Mean squared distance between normalised activation maps, summed over stages; uses no labels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's).
    """

    needs = frozenset({"maps"})
    labels = "none"

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return paired(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([distance(*pair) for pair in self.feature_pairs(student, teacher)]).sum()


def distance(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    return (attention(student_NCHW) - attention(teacher_NCHW)).square().mean()


def attention(map_NCHW: Tensor) -> Tensor:
    """Energy at each position, at unit length for each image: (N, C, H, W) to (N, P)."""
    return F.normalize(map_NCHW.square().mean(dim=1).flatten(1))
