"""Softmax regression representation learning: the teacher's own classifier reads what the student learns to say.

Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge Distillation via Softmax Regression Representation Learning",
ICLR 2021, sec. 3. https://openreview.net/forum?id=ZzwDy_wiWv
    feature_weight * mean of (g - embedding of teacher)^2
    + logit_weight * mean of (classifier of teacher(g) - logits of teacher)^2
g is the student's last map behind a 1x1 convolution, batch norm and a ReLU, averaged over positions; the classifier is
frozen. Both factors are 1 in the authors' code, beside {"ce": {}}. The accuracies published for CIFAR-100 are those of
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
    """Mean squared differences from the teacher's embedding, and of logits that one classifier makes; uses no labels.

    Args:
        connects: What the convolution reads: the student's last "map", as in the paper, or its "embedding".
        feature_weight: Factor of the embeddings' part.
        logit_weight: Factor of the logits' part; MMClassification has 5.
    """

    needs = frozenset({"classifier", "embedding", "logits"})
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

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        if setting.classifier is None:
            raise ValueError("the teacher's logits are not what a linear layer makes of its embedding")
        width, out = self._feature(setting.student).shape[1], setting.teacher.embedding.shape[1]
        convolution = nn.Conv2d(width, out, kernel_size=1, bias=False)
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())
        # Neither trained nor saved: the teacher's own checkpoint has them.
        for name, tensor in (("weight", setting.classifier.weight), ("bias", setting.classifier.bias)):
            given = None if tensor is None else tensor.detach()
            self.register_buffer(f"classifier_{name}", given, persistent=False)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        guess_ND = self.connector(self._feature(student)).mean(dim=(2, 3))
        features = F.mse_loss(guess_ND, teacher.embedding)
        logits = F.mse_loss(F.linear(guess_ND, self.classifier_weight, self.classifier_bias), teacher.logits)
        return self.feature_weight * features + self.logit_weight * logits

    def _feature(self, student: Output) -> Tensor:
        """(N, C, H, W), where 1 x 1 is all that an embedding has."""
        if self.connects == "embedding":
            return require_batch(student.embedding)[:, :, None, None]
        if not student.maps:
            raise ValueError("the student gives no maps to compare")
        return in_float32(student.maps[-1])
