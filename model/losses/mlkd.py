"""Multi-level logit distillation: predictions, relations of images and relations of classes, at five temperatures.

Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023.
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    (1 - alpha) * CE(student, labels) + alpha * sum over temperatures T of
    T^2 * mean of KL(teacher_T || student_T) + |G - G'|^2 / N + |M - M'|^2 / K
with P the probabilities (N, K) at T, G = P P^T (N, N) of the student and G' of the teacher, M = P^T P (K, K) likewise.

As published it uses two views of each image: `"dataset": {..., "strong_view": true}`. The strong views add their
cross-entropy and divergence, with the same factors; the relations are those of the weak views.

The authors' code is meant to mask the half that the teacher is more confident of: images whose largest probability is
above the batch's median, in the divergence and as rows of G, and classes whose sum of probabilities is above the
median, as rows of M. But it sums before it masks, which merely halves the terms; here the masks work as meant, and with
`unsure_half` false every image and class counts. Strong views are never masked. At two of the temperatures the code
uses the weak views' logits in place of the strong ones'; here each view has its own. Here both views pass the networks
in one batch, there in one each, which differs for batch norm. The relations grow with the batch. Includes the labels,
as `kd` does, so it is used without `ce`.

`strong_view` is torchvision's RandAugment(2, 10), whose operations have one strength, a third of their maximum, in
either direction. The authors' code calls its augmentation RandAugment(2, 10), too, but does not use the 10: it draws
every strength evenly from the operation's range (shear up to 0.3, rotation up to 30 degrees, translation up to 0.3 of
the side, 4 to 8 bits, any threshold of solarization), and only reduces brightness, colour, contrast and sharpness, to
between 0.05 and 0.95 of the image's, where 0.7 or 1.3 of them remain here. It fills the blanked square with the grey
(125, 123, 114), here it has the data set's mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part
from .base import DistillLoss
from .ce import cross_entropy
from .probabilities import kl


@LOSSES.register("mlkd", example={"loss": {"mlkd": {}}, "dataset.strong_view": True})
class MultiLevelLogitDistillation(DistillLoss):
    """Divergence and the relations of images and of classes, at several temperatures, and the labels.

    Args:
        alpha: Share of the soft part, above 0 and at most 1.
        temperatures: Each divides the logits of both networks in its own soft part; above 0.
        unsure_half: Whether images and classes above the median of the teacher's confidence are masked.
    """

    needs = frozenset({"probabilities"})
    labels = "mixed"
    global_batch: frozenset[Part] = frozenset({"logits"})

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        temperatures: list[float] = [2.0, 3.0, 4.0, 5.0, 6.0],
        unsure_half: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
        if not temperatures or min(temperatures) <= 0:
            raise ValueError(f"temperatures must be one or more positive numbers, got {temperatures}")
        self.alpha, self.temperatures, self.unsure_half = alpha, temperatures, unsure_half
        self.views_shown = 1

    def prepare(self, context: LossContext) -> None:
        self.views_shown = context.views_shown

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_VNK, teacher_VNK = (rows.chunk(self.views_shown) for rows in (student.logits, teacher.logits))
        batch_V = [Batch(*rows) for rows in zip(*(rows.chunk(self.views_shown) for rows in batch), strict=True)]
        loss = self._weak_loss(student_VNK[0], teacher_VNK[0], batch_V[0])
        if self.views_shown == 2:
            loss = loss + self._strong_loss(student_VNK[1], teacher_VNK[1], batch_V[1])
        return loss

    def _weak_loss(self, student_NK: Tensor, teacher_NK: Tensor, batch: Batch) -> Tensor:
        p_NK = teacher_NK.softmax(dim=1)
        mask_N, mask_K = self._mask(p_NK.amax(dim=1)), self._mask(p_NK.sum(dim=0))
        soft = []
        for T in self.temperatures:
            p_NK, t_NK = (student_NK / T).softmax(dim=1), (teacher_NK / T).softmax(dim=1)
            relations_N = squared_rows(p_NK @ p_NK.T - t_NK @ t_NK.T)
            relations_K = squared_rows(p_NK.T @ p_NK - t_NK.T @ t_NK)
            soft.append((mask_N * (divergence(student_NK, teacher_NK, T) + relations_N)).mean())
            soft.append((mask_K * relations_K).mean())
        return self._total(student_NK, batch, soft)

    def _strong_loss(self, student_NK: Tensor, teacher_NK: Tensor, batch: Batch) -> Tensor:
        soft = [divergence(student_NK, teacher_NK, T).mean() for T in self.temperatures]
        return self._total(student_NK, batch, soft)

    def _total(self, student_NK: Tensor, batch: Batch, soft: list[Tensor]) -> Tensor:
        return (1 - self.alpha) * cross_entropy(student_NK, batch) + self.alpha * torch.stack(soft).sum()

    def _mask(self, confidence: Tensor) -> Tensor:
        """1 up to the median, 0 above it."""
        below = confidence <= median(confidence)
        return below.to(confidence.dtype) if self.unsure_half else torch.ones_like(confidence)


def median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two middle ones: `quantile(0.5)` without float64, which MPS lacks."""
    ordered, last = values.sort().values, len(values) - 1
    return ordered[last // 2].lerp(ordered[-(-last // 2)], 0.5)


def divergence(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of each image: (N, K) twice to (N,)."""
    log_t_NK = F.log_softmax(teacher_NK / temperature, dim=1)
    return temperature**2 * kl(log_t_NK, F.log_softmax(student_NK / temperature, dim=1))


def squared_rows(matrix: Tensor) -> Tensor:
    """Sum of squares of each row."""
    return matrix.square().sum(dim=1)
