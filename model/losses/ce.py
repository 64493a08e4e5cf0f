"""Cross-entropy with the labels, optionally smoothed.

Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, sec. 7.
https://arxiv.org/abs/1512.00567
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss


@LOSSES.register("ce", example={"loss": {"ce": {}}})
class CrossEntropy(DistillLoss):
    """Mean cross-entropy over the batch.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
    """

    needs = frozenset()

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return F.cross_entropy(student.logits, batch.labels, label_smoothing=self.label_smoothing)
