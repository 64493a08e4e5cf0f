"""Semantic calibration: attention selects the stages of the teacher that each stage of the student learns from.

Chen et al., "Cross-Layer Distillation with Semantic Calibration", AAAI 2021. https://arxiv.org/abs/2012.03236
    mean over batch and student's stages of the sum over teacher's stages of attention * distance, with
    attention = softmax over teacher's stages of query . key and distance = mean of (projector(student) - teacher)^2
An image's query is computed from its inner products with the images of the batch in the student's map, its keys
likewise in the teacher's maps, each by two linear layers, and all have unit length. So the loss is made for one batch
size, and depends on the order of the batch. Smaller batches, which the authors drop, are padded with zeros.
The weight of 400 is the authors', with {"ce": {}, "kd": {"alpha": 1.0}}.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .maps import Pair, all_pairs, in_float32, match_size


@LOSSES.register(
    "semckd",
    default_term=TermOptions(weight=400.0),
    example={"loss": {"ce": {}, "kd": {"alpha": 1.0}, "semckd": {}}},
)
class SemanticCalibration(DistillLoss):
    """Squared distances of each map of the student to all of the teacher's, weighted by attention; uses no labels."""

    needs = frozenset({"maps"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"maps"})

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 0
        self.queries, self.keys, self.projectors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.batch_size = len(context.student.logits)
        self.queries.extend(embedder(self.batch_size) for _ in context.student.maps)
        self.keys.extend(embedder(self.batch_size) for _ in context.teacher.maps)
        for student_NCHW, teacher_NCHW in self.feature_pairs(context.student, context.teacher):
            self.projectors.append(projector(student_NCHW.shape[1], teacher_NCHW.shape[1]))

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        return [match_size(*pair) for pair in all_pairs(student.maps, teacher.maps)]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = zip(self.projectors, self.feature_pairs(student, teacher), strict=True)
        distances = [
            (project(student_NCHW) - teacher_NCHW).square().mean(dim=(1, 2, 3))
            for project, (student_NCHW, teacher_NCHW) in pairs
        ]
        attention_NST = self.attention(student, teacher)
        distance_NST = torch.stack(distances, dim=1).view_as(attention_NST)
        return (attention_NST * distance_NST).sum(dim=2).mean()

    def attention(self, student: Output, teacher: Output) -> Tensor:
        """Weights of the teacher's stages for each stage of the student: (N, S, T), which sum to 1 over T."""
        query_NSE, key_NTE = self._embedded(self.queries, student.maps), self._embedded(self.keys, teacher.maps)
        return (query_NSE @ key_NTE.transpose(1, 2)).softmax(dim=2)

    def _embedded(self, embedders: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
        """Queries or keys of all stages, at unit length: (N, S, E)."""
        stages = zip(embedders, maps, strict=True)
        return torch.stack([F.normalize(embed(self.similarity(map_NCHW))) for embed, map_NCHW in stages], dim=1)

    def similarity(self, map_NCHW: Tensor) -> Tensor:
        """Inner products of the images of a batch: (N, C, H, W) to (N, batch size)."""
        flat_NV = in_float32(map_NCHW).flatten(1)
        # Negative padding crops: the last batch may have one image more than the others.
        return F.pad(flat_NV @ flat_NV.T, (0, self.batch_size - len(flat_NV)))


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
