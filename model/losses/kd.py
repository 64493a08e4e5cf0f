"""Knowledge distillation: learn from the teacher's softened probabilities and from the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sec. 2.
https://arxiv.org/abs/1503.02531
    (1 - alpha) * CE(student, labels) + alpha * T^2 * KL(teacher_T || student_T), both means over the batch.

Published code weights the two parts differently under the same names; the options below cover each convention.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, LossContext, Output
from .base import DistillLoss
from .ce import ClassWeights, check_class_weights, class_weight_tensor, cross_entropy
from .probabilities import standardized


@LOSSES.register("kd", example={"loss": {"kd": {}}})
class KnowledgeDistillation(DistillLoss):
    """Hinton's objective, labels included.

    Args:
        alpha: Share of the soft part, in [0, 1]. At 1 no labels are used, at 0 no teacher.
        temperature: Divides the logits of both networks in the soft part; above 0.
        hard_weight: Factor of the cross-entropy with the labels; 1 - alpha if not given.
        label_smoothing: Share of the cross-entropy's target that is spread evenly over all classes, in [0, 1).
        soft_scale: A further factor of the soft part; 2 in some code.
        reduction: "batchmean" sums the divergence over classes; "mean" averages over them, which divides the soft part
            by the number of classes (the default of PyTorch's KLDivLoss, which many projects used).
        t_squared: Whether the soft part has the factor T^2, which keeps its gradient's size independent of T.
        divergence: "kl", or "cross_entropy": the same gradients, the value larger by the teacher's entropy.
        class_weights: Weights of the classes in the cross-entropy with the labels, as of `ce`.
        standardize: Whether each image's logits are first brought to mean 0 and standard deviation 1 in the soft part
            (Sun et al., https://arxiv.org/abs/2403.01427; theirs for CIFAR-100: temperature 2, soft_scale 10).
    """

    class_weight: Tensor | None

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        temperature: float = 4.0,
        hard_weight: float | None = None,
        label_smoothing: float = 0.0,
        soft_scale: float = 1.0,
        reduction: Literal["batchmean", "mean"] = "batchmean",
        t_squared: bool = True,
        divergence: Literal["kl", "cross_entropy"] = "kl",
        standardize: bool = False,
        class_weights: ClassWeights | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if hard_weight is not None and hard_weight < 0:
            raise ValueError(f"hard_weight must be 0 or more, got {hard_weight}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if soft_scale <= 0:
            raise ValueError(f"soft_scale must be positive, got {soft_scale}")
        self.temperature = temperature
        self.soft_weight = soft_scale * alpha * (temperature**2 if t_squared else 1.0)
        self.hard_weight = 1 - alpha if hard_weight is None else hard_weight
        if not self.soft_weight and not self.hard_weight:
            raise ValueError("alpha and hard_weight are both 0: there is nothing to learn from")
        self.label_smoothing = label_smoothing
        self.reduction, self.divergence, self.standardize = reduction, divergence, standardize
        # Mean and deviation are of all logits: they cannot be computed from the largest probabilities alone.
        self.needs = frozenset({"logits" if standardize else "probabilities"}) if self.soft_weight else frozenset()
        self.labels = "mixed" if self.hard_weight else "none"
        self.class_weights = class_weights
        self.register_buffer("class_weight", None, persistent=False)  # follows from the data
        if class_weights is not None:
            check_class_weights(class_weights)
            if not self.hard_weight:
                raise ValueError("class_weights are those of the labels, which alpha or hard_weight leaves out")
            self.global_batch = frozenset({"logits"})  # the weighted mean's weights are those of all images
        self.part_names = ("hard", "soft") if self.hard_weight and self.soft_weight else ()

    def prepare(self, context: LossContext) -> None:
        self.class_weight = class_weight_tensor(self.class_weights, context)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        self.parts = {}
        if self.hard_weight:
            hard = cross_entropy(
                student.logits, batch, weight_K=self.class_weight, label_smoothing=self.label_smoothing
            )
            self.parts["hard"] = self.hard_weight * hard
        if self.soft_weight:
            self.parts["soft"] = self.soft_weight * self.soft(student.logits, teacher.logits)
        return torch.stack([*self.parts.values()]).sum()

    def soft(self, student_NK: Tensor, teacher_NK: Tensor) -> Tensor:
        """Divergence of the softened distributions: (N, K) twice to a scalar."""
        if self.standardize:
            student_NK, teacher_NK = standardized(student_NK), standardized(teacher_NK)
        log_p_student_NK = F.log_softmax(student_NK / self.temperature, dim=1)
        log_p_teacher_NK = F.log_softmax(teacher_NK / self.temperature, dim=1)
        if self.divergence == "kl":
            divergence_NK = F.kl_div(log_p_student_NK, log_p_teacher_NK, log_target=True, reduction="none")
        else:
            divergence_NK = -log_p_teacher_NK.exp() * log_p_student_NK
        return divergence_NK.sum(dim=1).mean() if self.reduction == "batchmean" else divergence_NK.mean()
