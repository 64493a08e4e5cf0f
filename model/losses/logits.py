"""Regression of logits: match the teacher's scores before the softmax.

Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, eq. 1. https://arxiv.org/abs/1312.6184
The paper halves the sum over classes; here the squared error is a mean over classes, too, so that its size does not
depend on their number. A `weight` of K / 2 gives the paper's scale.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss


@LOSSES.register("logits")
class LogitRegression(DistillLoss):
    """Mean squared difference of the logits; uses no labels."""

    labels = "none"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)
