"""Refined logit distillation: what the teacher says against the label is left out.

Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025. https://arxiv.org/abs/2408.07703
    alpha * S^2 * KL(b_teacher || b_student) + beta * T^2 * KL(q_teacher || q_student), means over the batch.
b: the probability of one class and of all the others together, at temperature S: of the teacher its likeliest class, of
the student the label's. q: the distribution over the classes that the teacher gives less than the label's, at
temperature T; where there are none, the second part is 0, as in the authors' code.
Beside {"ce": {}}; defaults are theirs for CIFAR-100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .probabilities import kl, target_against_rest, target_values


@LOSSES.register("rld")
class RefinedLogitDistillation(DistillLoss):
    """Divergence of how sure the networks are, and of the classes that the teacher ranks below the label's.

    Args:
        alpha: Factor of how sure the networks are; 0 or more.
        beta: Factor of the classes below the label's; 0 or more.
        temperature: Divides the logits of both networks among the classes below the label's; above 0.
        confidence_temperature: Divides them where it is about how sure the networks are; above 0.
    """

    needs = frozenset({"probabilities"})
    published = TermOptions(warmup_epochs=20.0)

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        for name, value in (("temperature", temperature), ("confidence_temperature", confidence_temperature)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.alpha, self.beta = alpha, beta
        self.temperature, self.confidence_temperature = temperature, confidence_temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        confidence_N = kl(
            target_against_rest(teacher.logits / self.confidence_temperature, teacher.logits.argmax(dim=1)),
            target_against_rest(student.logits / self.confidence_temperature, batch.labels),
        )
        left_out_NK = teacher.logits >= target_values(teacher.logits, batch.labels)[:, None]
        below_N = kl(self._without(left_out_NK, teacher.logits), self._without(left_out_NK, student.logits))
        return (
            self.alpha * self.confidence_temperature**2 * confidence_N + self.beta * self.temperature**2 * below_N
        ).mean()

    def _without(self, left_out_NK: Tensor, logits_NK: Tensor) -> Tensor:
        """Softened log-probabilities over the other classes."""
        # The least number, not -inf, whose product with a probability of 0 is no number. Where all are left out they
        # are equal, and so is what both networks say.
        least = torch.finfo(logits_NK.dtype).min
        return F.log_softmax((logits_NK / self.temperature).masked_fill(left_out_NK, least), dim=1)
