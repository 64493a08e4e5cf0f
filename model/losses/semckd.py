"""Semantic calibration: attention tells which stages of the teacher a stage of the student learns from.

Chen et al., "Cross-Layer Distillation with Semantic Calibration", AAAI 2021. https://arxiv.org/abs/2012.03236
    mean over batch and student's stages of the sum over teacher's stages of attention * distance, with
    attention = softmax over teacher's stages of query . key and distance = mean of (projector(student) - teacher)^2
An image's query is made from its inner products with the images of the batch in the student's map, its keys likewise
in the teacher's maps, each by two linear layers, and all are of length 1. So a term belongs to a batch size, and the
order of a batch counts. Batches that are smaller, which the authors leave out, are filled up with zeros.
The weight of 400 is the authors', beside {"ce": {}, "kd": {"alpha": 1.0}}.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .maps import Pair, all_pairs, in_float32, match_size


@LOSSES.register("semckd")
class SemanticCalibration(DistillLoss):
    """Squared distances of each map of the student and all of the teacher, weighed by attention; uses no labels."""

    needs = frozenset({"maps"})
    global_batch: frozenset[Part] = frozenset({"maps"})
    published = TermOptions(weight=400.0)

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 0
        self.queries, self.keys, self.projectors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        self.batch_size = len(setting.student.logits)
        self.queries.extend(embedder(self.batch_size) for _ in setting.student.maps)
        self.keys.extend(embedder(self.batch_size) for _ in setting.teacher.maps)
        for student_NCHW, teacher_NCHW in self.pairs(setting.student, setting.teacher):
            self.projectors.append(projector(student_NCHW.shape[1], teacher_NCHW.shape[1]))

    def pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return [match_size(*pair) for pair in all_pairs(student.maps, teacher.maps)]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = zip(self.projectors, self.pairs(student, teacher), strict=True)
        distances = [(project(one) - other).square().mean(dim=(1, 2, 3)) for project, (one, other) in pairs]
        attention_NST = self.attention(student, teacher)
        distance_NST = torch.stack(distances, dim=1).view_as(attention_NST)
        return (attention_NST * distance_NST).sum(dim=2).mean()

    def attention(self, student: Output, teacher: Output) -> Tensor:
        """Of each stage of the student to those of the teacher: (N, S, T), the last of which sums to 1."""
        query_NSE, key_NTE = (
            torch.stack(
                [F.normalize(embed(self.similarity(each))) for embed, each in zip(embedders, maps, strict=True)], dim=1
            )
            for embedders, maps in ((self.queries, student.maps), (self.keys, teacher.maps))
        )
        return (query_NSE @ key_NTE.transpose(1, 2)).softmax(dim=2)

    def similarity(self, map_NCHW: Tensor) -> Tensor:
        """Inner products of the images of a batch: (N, C, H, W) to (N, batch size)."""
        rows_NV = in_float32(map_NCHW).flatten(1)
        # A negative number of zeros cuts off: the last batch may have one image more than the others.
        return F.pad(rows_NV @ rows_NV.T, (0, self.batch_size - len(rows_NV)))


def embedder(batch_size: int) -> nn.Sequential:
    width = max(1, batch_size // 4)
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def projector(in_channels: int, out_channels: int) -> nn.Sequential:
    channels = 2 * out_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
    )
