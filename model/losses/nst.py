"""Neuron selectivity transfer: match the distribution of the channels' spatial activation patterns.

Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, sec. 3 and 4.
https://arxiv.org/abs/1707.01219
    sum over stages of mean k(t, t') + mean k(s, s') - 2 mean k(s, t), with k(a, b) = (a . b)^2
over all pairs of channels of an image, s and t being a channel's map at unit length: the squared maximum mean
discrepancy of the two sets of channels, with the paper's best kernel. The weight is that of the repositories that
compare methods, with {"ce": {}}.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .maps import Layers, Pair, paired


@LOSSES.register("nst", default_term=TermOptions(weight=50.0))
class NeuronSelectivityTransfer(DistillLoss):
    """Maximum mean discrepancy of the channels' normalised maps, summed over stages; uses no labels.

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
        return torch.stack([discrepancy(*pair) for pair in self.feature_pairs(student, teacher)]).sum()


def discrepancy(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the two sets of channels, the mean over images."""
    student_NCP, teacher_NCP = (F.normalize(map_NCHW.flatten(2), dim=2) for map_NCHW in (student_NCHW, teacher_NCHW))
    teacher_kernel, student_kernel = kernel(teacher_NCP, teacher_NCP), kernel(student_NCP, student_NCP)
    return teacher_kernel.mean() + student_kernel.mean() - 2 * kernel(student_NCP, teacher_NCP).mean()


def kernel(one_NCP: Tensor, other_NDP: Tensor) -> Tensor:
    """The kernel of every pair of channels: (N, C, P) and (N, D, P) to (N, C, D)."""
    return (one_NCP @ other_NDP.transpose(1, 2)).square()
