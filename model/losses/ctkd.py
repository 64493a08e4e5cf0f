"""Curriculum temperature: a temperature is learned adversarially against the student, ever more strongly.

Li et al., "Curriculum Temperature for Knowledge Distillation", AAAI 2023. https://arxiv.org/abs/2211.16231
    (1 - alpha) * CE(student, labels) + alpha * T^2 * KL(teacher_T || student_T), means over the batch, with
    T = 1 + 20 * sigmoid(theta),
theta one number for all images, 1 at first, trained with the student, weight decay included. Its gradient is reversed:
it is multiplied by a factor that falls from 0 to -1 along half a cosine over the first epochs and then stays at -1.
The factor changes every step; in the authors' code it changes once an epoch. Their variant with a temperature for each
image, predicted by a small network, is left out. Includes the labels, as `kd` does, so it is used without `ce`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss
from .ce import cross_entropy
from .probabilities import kl


@LOSSES.register("ctkd", example={"loss": {"ctkd": {}}})
class CurriculumTemperature(DistillLoss):
    """Hinton's objective, labels included, at a temperature that is learned against the student.

    Args:
        alpha: Share of the soft part, above 0 and at most 1.
        lowest: The temperature's lower bound; above 0.
        span: Difference between its upper and lower bound; above 0.
        curriculum_epochs: Epochs until the temperature's gradient is fully reversed; above 0.
    """

    needs = frozenset({"probabilities"})
    labels = "mixed"

    def __init__(
        self, *, alpha: float = 0.9, lowest: float = 1.0, span: float = 20.0, curriculum_epochs: float = 10.0
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
        for name, value in (("lowest", lowest), ("span", span), ("curriculum_epochs", curriculum_epochs)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.alpha, self.lowest, self.span, self.curriculum_epochs = alpha, lowest, span, curriculum_epochs
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        hard = cross_entropy(student.logits, batch)
        temperature = scaled_gradient(self.lowest + self.span * self.theta.sigmoid(), self.gradient_factor())
        soft_N = kl(
            F.log_softmax(teacher.logits / temperature, dim=1), F.log_softmax(student.logits / temperature, dim=1)
        )
        return (1 - self.alpha) * hard + self.alpha * temperature**2 * soft_N.mean()

    def gradient_factor(self) -> float:
        """Multiplies the temperature's gradient: 0 at first, -1 at the end of the curriculum."""
        progress = min(1.0, self.epoch / self.curriculum_epochs)
        return (math.cos(math.pi * progress) - 1) / 2


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, with its gradient multiplied by `factor`."""
    return value.detach() + factor * (value - value.detach())
