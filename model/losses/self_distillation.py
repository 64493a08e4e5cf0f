"""Self-distillation: a network's early exits learn from its last one.

Zhang et al., "Be Your Own Teacher", ICCV 2019, eq. 1 to 5. https://arxiv.org/abs/1905.08094
    sum over all exits, the last included, of (1 - alpha) * CE(exit, labels)
    + sum over the early exits of alpha * T^2 * KL(last_T || exit_T) + beta * |exit's feature - last feature|^2,
with the last exit's output detached. Defaults are those of luanyunteng's pytorch-be-your-own-teacher. Its feature loss
is a sum over batch and features; its beta of 1e-6 is the default here for ResNet-18 (512 features) and batches of 128.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss
from .ce import cross_entropy


@LOSSES.register(
    "self_distillation",
    example={
        "loss": {"self_distillation": {}},
        "student": {"name": "peers", "networks": [{"name": "cnn", "num_channels": 8}] * 2},
    },
)
class SelfDistillation(DistillLoss):
    """Labels, the last exit's probabilities and its features, for networks with early exits; uses no teacher.

    Args:
        alpha: Share of the soft part, in [0, 1]. At 0 every exit learns from the labels alone (deep supervision).
        temperature: Divides the logits in the soft part; above 0.
        beta: Factor of the feature part; 0 leaves it out.
        feature_reduction: "mean" over batch and features, or the original's "sum", which grows with both.
        divergence: "kl", or the original's "cross_entropy": the same gradients, the value larger by an entropy.
    """

    needs = frozenset()
    labels = "mixed"

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        temperature: float = 3.0,
        beta: float = 0.0655,
        feature_reduction: Literal["mean", "sum"] = "mean",
        divergence: Literal["kl", "cross_entropy"] = "kl",
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if beta < 0:
            raise ValueError(f"beta must be 0 or more, got {beta}")
        self.alpha, self.temperature, self.beta = alpha, temperature, beta
        self.feature_reduction, self.divergence = feature_reduction, divergence
        if feature_reduction == "sum":
            self.global_batch = frozenset({"logits", "embedding", "exits"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        if not student.exits:
            raise ValueError("the loss self_distillation needs a network with early exits, such as multi_exit_resnet18")
        last_NK, last_ND = student.logits.detach(), student.embedding.detach()
        loss = (1 - self.alpha) * cross_entropy(student.logits, batch)
        for early in student.exits:
            loss = loss + (1 - self.alpha) * cross_entropy(early.logits, batch)
            if self.alpha:
                loss = loss + self.alpha * self.temperature**2 * self.soft(early.logits, last_NK)
            if self.beta:
                loss = loss + self.beta * F.mse_loss(early.embedding, last_ND, reduction=self.feature_reduction)
        return loss

    def soft(self, exit_NK: Tensor, last_NK: Tensor) -> Tensor:
        """Divergence of the softened distributions, the mean over the batch."""
        log_p_exit_NK = F.log_softmax(exit_NK / self.temperature, dim=1)
        log_p_last_NK = F.log_softmax(last_NK / self.temperature, dim=1)
        if self.divergence == "kl":
            return F.kl_div(log_p_exit_NK, log_p_last_NK, log_target=True, reduction="batchmean")
        return -(log_p_last_NK.exp() * log_p_exit_NK).sum(dim=1).mean()
