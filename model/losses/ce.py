"""Cross-entropy with the labels, optionally smoothed; with two labels for each of a batch's mixed images.

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
    labels = "mixed"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return cross_entropy(student.logits, batch, label_smoothing=self.label_smoothing)


def cross_entropy(logits_NK: Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean over the batch of each image's cross-entropy with its label, or with both labels by their shares."""
    if batch.partner_labels is None:
        return F.cross_entropy(logits_NK, batch.labels, label_smoothing=label_smoothing)
    return cross_entropies(logits_NK, batch, label_smoothing=label_smoothing).mean()


def cross_entropies(logits_NK: Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of each image: (N, K) to (N,)."""
    own_N = F.cross_entropy(logits_NK, batch.labels, reduction="none", label_smoothing=label_smoothing)
    if batch.partner_labels is None or batch.label_share is None:
        return own_N
    partner_N = F.cross_entropy(logits_NK, batch.partner_labels, reduction="none", label_smoothing=label_smoothing)
    return batch.label_share * own_N + (1 - batch.label_share) * partner_N
