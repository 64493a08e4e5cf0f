"""Refined logit distillation: the teacher's probabilities that contradict the label are left out.

Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025. https://arxiv.org/abs/2408.07703
    alpha * S^2 * KL(b_teacher || b_student) + beta * T^2 * KL(q_teacher || q_student), means over the batch.
b: the probabilities of one class and of all others together, at temperature S: of the teacher's most probable class for
the teacher, of the label's class for the student. q: the distribution over the classes that the teacher ranks below the
label's, at temperature T; where there are none, the second part is 0, as in the authors' code.
Used with {"ce": {}}; defaults are theirs for CIFAR-100. The factor of the warm-up rises with every step, from 0; theirs
is constant within an epoch, the epoch's number, from 1, divided by 20.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .probabilities import kl, target_against_rest, target_values


@LOSSES.register("rld", default_term=TermOptions(warmup_epochs=20.0))
class RefinedLogitDistillation(DistillLoss):
    """Divergences of the two networks' confidence and of the classes that the teacher ranks below the label's.

    Args:
        alpha: Factor of the confidence; 0 or more.
        beta: Factor of the classes below the label's; 0 or more.
        temperature: Divides the logits of both networks for the classes below the label's; above 0.
        confidence_temperature: Divides the logits of both networks for the confidence; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "single"

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
        mask_NK = teacher.logits >= target_values(teacher.logits, batch.labels)[:, None]
        below_N = kl(self._masked_log_p(teacher.logits, mask_NK), self._masked_log_p(student.logits, mask_NK))
        return (
            self.alpha * self.confidence_temperature**2 * confidence_N + self.beta * self.temperature**2 * below_N
        ).mean()

    def _masked_log_p(self, logits_NK: Tensor, mask_NK: Tensor) -> Tensor:
        """Softened log-probabilities over the classes that are not masked."""
        # The lowest finite number, as -inf times a probability of 0 is NaN. Where all classes are masked, both networks
        # get the uniform distribution.
        lowest = torch.finfo(logits_NK.dtype).min
        return F.log_softmax((logits_NK / self.temperature).masked_fill(mask_NK, lowest), dim=1)
