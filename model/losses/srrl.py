"""Softmax regression representation learning: the teacher's classifier is applied to the student's features.

Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge Distillation via Softmax Regression Representation Learning",
ICLR 2021, sec. 3. https://openreview.net/forum?id=ZzwDy_wiWv
    feature_weight * mean of (g - embedding of teacher)^2
    + logit_weight * mean of (classifier of teacher(g) - logits of teacher)^2
g is the student's last map after a 1x1 convolution, batch norm and a ReLU, averaged over positions; the classifier is
frozen. Both factors are 1 in the authors' code, with {"ce": {}}. The accuracies published for CIFAR-100 are those of
SimKD's code: {"ce": {}, "kd": {"alpha": 1.0}, "srrl": {"connects": "embedding"}}, which averages first.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .maps import in_float32
from .relations import require_batch


@LOSSES.register("srrl")
class SoftmaxRegression(DistillLoss):
    """Mean squared differences of embeddings, and of the logits of the teacher's classifier; uses no labels.

    Args:
        connects: Input of the convolution: the student's last "map", as in the paper, or its "embedding".
        feature_weight: Factor of the embeddings' part.
        logit_weight: Factor of the logits' part; MMClassification has 5.
    """

    needs = frozenset({"classifier", "embedding", "logits"})
    labels = "none"
    classifier_weight: Tensor
    classifier_bias: Tensor | None

    def __init__(
        self,
        *,
        connects: Literal["map", "embedding"] = "map",
        feature_weight: float = 1.0,
        logit_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if feature_weight < 0:
            raise ValueError(f"feature_weight must be 0 or more, got {feature_weight}")
        if logit_weight < 0:
            raise ValueError(f"logit_weight must be 0 or more, got {logit_weight}")
        self.connects, self.feature_weight, self.logit_weight = connects, feature_weight, logit_weight

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        if context.classifier is None:
            raise ValueError("the teacher's logits are not a linear function of its embedding")
        in_channels, out_channels = self._feature(context.student).shape[1], context.teacher.embedding.shape[1]
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())
        # Neither trained nor saved: the teacher's checkpoint holds them.
        for name, parameter in (("weight", context.classifier.weight), ("bias", context.classifier.bias)):
            frozen = None if parameter is None else parameter.detach()
            self.register_buffer(f"classifier_{name}", frozen, persistent=False)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        projected_ND = self.connector(self._feature(student)).mean(dim=(2, 3))
        features = F.mse_loss(projected_ND, teacher.embedding)
        logits = F.mse_loss(F.linear(projected_ND, self.classifier_weight, self.classifier_bias), teacher.logits)
        return self.feature_weight * features + self.logit_weight * logits

    def _feature(self, student: Output) -> Tensor:
        """The connector's input, (N, C, H, W); of an embedding (N, D, 1, 1)."""
        if self.connects == "embedding":
            return require_batch(student.embedding)[:, :, None, None]
        if not student.maps:
            raise ValueError("the student returns no maps to compare")
        return in_float32(student.maps[-1])
