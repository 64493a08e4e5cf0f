"""One for all: the teacher's probabilities, with the label's class enhanced.

Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS 2023.
https://arxiv.org/abs/2310.19444
    mean over the batch of -sum over classes of ((p_teacher + y)^gamma - y) * log p_student, y 1 for the label's class.
At gamma 1, the authors' value for CIFAR-100, it is the cross-entropy with the teacher; for ImageNet they use 1.5.
It is summed over the student's logits and those of branches, one at each of its stages, which map a feature map to
logits: the logits are what networks of different architectures have in common. Used with {"ce": {}}.
Branches are the authors' for convolutional students: a separable convolution for each of the remaining stages, which
halves the map, then the mean over positions and a linear layer. They work for every student that returns maps; the
authors have other branches for transformers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import in_float32


@LOSSES.register("ofa")
class OneForAll(DistillLoss):
    """Cross-entropy with the teacher's probabilities, the label's enhanced by a power, of logits and of branches.

    Args:
        gamma: The power; 1 or more.
        layers: Numbers of the student's stages with a branch, from 1; all by default, [] for none.
    """

    needs = frozenset({"probabilities"})
    labels = "single"

    def __init__(self, *, gamma: float = 1.0, layers: list[int] | None = None) -> None:
        super().__init__()
        if gamma < 1:
            raise ValueError(f"gamma must be 1 or more, got {gamma}")
        self.gamma, self.layers = gamma, layers
        self.branches = nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        maps, num_classes = context.student.maps, context.student.logits.shape[1]
        width = max(context.student.embedding.shape[1], context.teacher.embedding.shape[1])
        for stage in self._stages(context.student):
            if not 1 <= stage <= len(maps):
                raise ValueError(f"layers: the student has stages 1 to {len(maps)}, got {stage}")
            self.branches.append(branch(maps[stage - 1].shape[1], len(maps) - stage, width, num_classes))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_teacher_NK = teacher.logits.softmax(dim=1)
        label_NK = torch.zeros_like(p_teacher_NK).scatter(1, batch.labels[:, None], 1.0)
        target_NK = (p_teacher_NK + label_NK) ** self.gamma - label_NK
        maps = (in_float32(student.maps[stage - 1]) for stage in self._stages(student))
        logits = [student.logits, *(branch(map_) for branch, map_ in zip(self.branches, maps, strict=True))]
        cross_entropies = [-(target_NK * F.log_softmax(logits_NK, dim=1)).sum(dim=1).mean() for logits_NK in logits]
        return torch.stack(cross_entropies).sum()

    def _stages(self, student: Output) -> list[int]:
        return list(range(1, len(student.maps) + 1)) if self.layers is None else self.layers


def branch(in_channels: int, num_halvings: int, width: int, num_classes: int) -> nn.Sequential:
    """From a stage's map to logits: halvings that double the channels, the last one to `width`, then a classifier."""
    layers: list[nn.Module] = []
    for remaining in range(num_halvings, 0, -1):
        out_channels = width if remaining == 1 else 2 * in_channels
        layers += [*separable(in_channels, in_channels, stride=2), *separable(in_channels, out_channels, stride=1)]
        in_channels = out_channels
    if not num_halvings:
        layers.append(nn.Conv2d(in_channels, width, kernel_size=1))
    classifier = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    for module in classifier:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return classifier


def separable(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    """A depthwise 3x3 and a pointwise 1x1 convolution, batch norm and a ReLU."""
    return [
        nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]
