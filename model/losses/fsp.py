"""FSP: match the flow from one feature to the next, not the features themselves.

Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017, eq. 1 and 2. https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    G_ij = mean over positions of first_i * second_j, for two consecutive features;
    sum over such pairs of the mean over batch and ij of (G_student - G_teacher)^2
Features are the outputs of the stem and of each stage. The paper sums over ij, and trains in two stages, with this loss
alone and then with labels alone: a folder with {"fsp": {}}, then one that starts from its weights. So does
RepDistiller; its scripts set a weight of 50, which its first stage does not use: its weight is 1, as here. hankyul2's
KnowledgeDistillation trains in one stage with a third of the mean over its three pairs:
{"ce": {}, "fsp": {"over_pairs": "mean", "weight": 0.3333333333333333}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss
from .maps import Layers, Pair, in_float32, match_size, select_pairs

POOLS: dict[str, Any] = {"average": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}


@LOSSES.register("fsp", example={"loss": {"fsp": {}}, "student.num_channels": 16})
class FlowOfSolutionProcedure(DistillLoss):
    """Mean squared difference of the flow matrices of consecutive features; uses no labels.

    The two networks' features must have equal numbers of channels.

    Args:
        layers: Numbers of the compared stages, from 1, or pairs (student's, teacher's).
        stem: Whether the stem's output is the first feature, where both networks return it.
        pool: Pools the larger of two features to the size of the smaller: "average", as in common code, or the paper's
            "max".
        over_pairs: Whether pairs of consecutive features are summed or averaged.
    """

    needs = frozenset({"maps", "stem"})
    labels = "none"

    def __init__(
        self,
        *,
        layers: Layers | None = None,
        stem: bool = True,
        pool: Literal["average", "max"] = "average",
        over_pairs: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        self.layers, self.stem, self.pool, self.over_pairs = layers, stem, POOLS[pool], over_pairs

    def feature_pairs(self, student: Output, teacher: Output) -> list[Pair]:
        pairs = select_pairs(student.maps, teacher.maps, self.layers)
        if self.stem and student.stem is not None and teacher.stem is not None:
            pairs = [(in_float32(student.stem), in_float32(teacher.stem)), *pairs]
        if len(pairs) < 2:
            raise ValueError("there must be at least two consecutive features, and there is 1")
        channels, teacher_channels = ([map_NCHW.shape[1] for map_NCHW in maps] for maps in zip(*pairs, strict=True))
        if channels != teacher_channels:
            raise ValueError(
                "numbers of channels must be equal: the student's features have "
                f"{', '.join(map(str, channels))}, the teacher's {', '.join(map(str, teacher_channels))}"
            )
        return pairs

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_features, teacher_features = zip(*self.feature_pairs(student, teacher), strict=True)
        flows = zip(self.flows(student_features), self.flows(teacher_features), strict=True)
        distances = torch.stack([F.mse_loss(student_NCD, teacher_NCD) for student_NCD, teacher_NCD in flows])
        return distances.sum() if self.over_pairs == "sum" else distances.mean()

    def flows(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The flow matrices of consecutive features."""
        return [flow(*match_size(first, second, self.pool)) for first, second in pairwise(features)]


def flow(first_NCHW: Tensor, second_NDHW: Tensor) -> Tensor:
    """Mean over positions of the outer products: (N, C, H, W) and (N, D, H, W) to (N, C, D)."""
    first_NCP, second_NDP = first_NCHW.flatten(2), second_NDHW.flatten(2)
    return first_NCP @ second_NDP.transpose(1, 2) / first_NCP.shape[2]
