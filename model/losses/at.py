"""Attention transfer: match where the maps are active, not what they contain.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2. https://arxiv.org/abs/1612.03928
Follows the authors' code: the mean over positions of the squared difference, where eq. 2 has its norm. The weight is
the one that they published for it, which pytorch-moonshine and RepDistiller took over, beside {"ce": {}}.

The attention of an image has length 1, so its mean falls with the number of positions: at one angle between two of
them, a map of 8x8 counts 16 times as much as one of 32x32. Stages are added up. So networks with s splits a stage want
a weight of 1000 / s (pytorch-moonshine divides by itself), and code that takes the mean of three stages has 1000 where
333 stands here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, paired


@LOSSES.register("at")
class AttentionTransfer(DistillLoss):
    """Mean squared distance between normalised activation maps, summed over stages; uses no labels.

    Args:
        layers: Numbers of the stages that are compared, from 1, or pairs of them (student's, teacher's).
    """

    needs = frozenset({"maps"})
    published = TermOptions(weight=1000.0)

    def __init__(self, *, layers: Layers | None = None) -> None:
        super().__init__()
        self.layers = layers

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return paired(student.maps, teacher.maps, self.layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return torch.stack([distance(*pair) for pair in self.pairs(student, teacher)]).sum()


def distance(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    return (attention(student_NCHW) - attention(teacher_NCHW)).square().mean()


def attention(map_NCHW: Tensor) -> Tensor:
    """Energy per position, of unit length per image: (N, C, H, W) to (N, P)."""
    return F.normalize(map_NCHW.square().mean(dim=1).flatten(1))
