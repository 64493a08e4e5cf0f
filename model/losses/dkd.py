"""Decoupled knowledge distillation: the label's class and the other classes are distilled apart.

Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, eq. 7. https://arxiv.org/abs/2203.08679
    alpha * T^2 * KL(b_teacher || b_student) + beta * T^2 * KL(q_teacher || q_student), means over the batch,
with b the two probabilities of the label's class and of all others together, and q the distribution over the other
classes alone. Both are exact here; common code takes logarithms of probabilities, which is log(0) where a network is
certain, and masks the label's class with -1000. With two classes the second part is 0.

Used with {"ce": {}}. The authors chose beta for each pair on CIFAR-100: 8 for resnet32x4 and ResNet50 as teachers and
for wrn_40_2 with ShuffleV1, 6 for the other pairs of wrn_40_2 and those of vgg13, 2 for resnet56 and resnet110.
The factor of the warm-up is min(1, e / 20) with e the epochs done, which rises with every step; in the authors' code e
is the epoch's number, from 1, so the factor is constant within an epoch and up to 1/20 larger.
With `standardize`, Sun et al. (https://arxiv.org/abs/2403.01427) use temperature 2 and 9 times this alpha and beta.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, TermOptions
from .base import DistillLoss
from .probabilities import kl, non_target_logits, standardized, target_against_rest


@LOSSES.register("dkd", default_term=TermOptions(warmup_epochs=20.0))
class DecoupledKnowledgeDistillation(DistillLoss):
    """Divergences of the label's class against the rest and of the other classes, each with its own weight.

    Args:
        alpha: Factor of the label's class against the rest; 0 or more.
        beta: Factor of the other classes among themselves; 0 or more.
        temperature: Divides the logits of both networks; above 0.
        standardize: Whether each image's logits are first brought to mean 0 and standard deviation 1.
    """

    labels = "single"

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.alpha, self.beta, self.temperature, self.standardize = alpha, beta, temperature, standardize
        # Mean and deviation are of all logits: they cannot be computed from the largest probabilities alone.
        self.needs = frozenset({"logits" if standardize else "probabilities"})

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NK, teacher_NK = self._softened(student.logits), self._softened(teacher.logits)
        label_N = kl(target_against_rest(teacher_NK, batch.labels), target_against_rest(student_NK, batch.labels))
        rest_N = kl(
            F.log_softmax(non_target_logits(teacher_NK, batch.labels), dim=1),
            F.log_softmax(non_target_logits(student_NK, batch.labels), dim=1),
        )
        return self.temperature**2 * (self.alpha * label_N + self.beta * rest_N).mean()

    def _softened(self, logits_NK: Tensor) -> Tensor:
        return (standardized(logits_NK) if self.standardize else logits_NK) / self.temperature
