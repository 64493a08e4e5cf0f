"""Multi-level logit distillation: what is said of an image, how images relate and how classes do, softened five times.

Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023.
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    (1 - alpha) * CE(student, labels) + alpha * sum over temperatures T of
    T^2 * mean of KL(teacher_T || student_T) + |G - G'|^2 / N + |M - M'|^2 / K,
with P the probabilities (N, K) at T, G = P P^T (N, N) of the student and G' of the teacher, M = P^T P (K, K) likewise.

The authors' code means the teacher's surer half to be left out: images whose largest probability is above the batch's
median count neither in the divergence nor as rows of G, classes whose sum of probabilities is above the median not as
rows of M. There the sums are taken before the masks, which so only halve the terms; here the masks do what they say,
and `unsure_half` false takes every image and class. The authors train on two views of each image, of which the second
is strongly augmented; a batch has one, which stands for their first. The relations grow with the batch. Stands alone,
as `kd` does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses.base import DistillLoss
from model.losses.probabilities import kl
from model.registry import LOSSES
from model.types import Batch, Output, Part


@LOSSES.register("mlkd")
class MultiLevelLogitDistillation(DistillLoss):
    """Divergence and the relations of images and of classes, at several temperatures, and the labels.

    Args:
        alpha: Share of the soft part, above 0 and at most 1.
        temperatures: Each divides the logits of both networks in a soft part of its own; above 0.
        unsure_half: Whether images and classes that the teacher is surer of than of most are left out.
    """

    needs = frozenset({"probabilities"})
    whole_batch: frozenset[Part] = frozenset({"logits"})

    def __init__(
        self,
        *,
        alpha: float = 0.9,
        temperatures: list[float] = [2.0, 3.0, 4.0, 5.0, 6.0],  # noqa: B006  never changed
        unsure_half: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
        if not temperatures or min(temperatures) <= 0:
            raise ValueError(f"temperatures must be one or more that are positive, got {temperatures}")
        self.alpha, self.temperatures, self.unsure_half = alpha, temperatures, unsure_half

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p_NK = teacher.logits.softmax(dim=1)
        image_N, class_K = self._counts(p_NK.amax(dim=1)), self._counts(p_NK.sum(dim=0))
        soft = [self._at(T, student.logits, teacher.logits, image_N, class_K) for T in self.temperatures]
        hard = F.cross_entropy(student.logits, batch.labels)
        return (1 - self.alpha) * hard + self.alpha * torch.stack(soft).sum()

    def _counts(self, sureness: Tensor) -> Tensor:
        """1 for what counts, 0 for what is left out."""
        below = sureness <= sureness.quantile(0.5)
        return below.to(sureness.dtype) if self.unsure_half else torch.ones_like(sureness)

    def _at(
        self, temperature: float, student_NK: Tensor, teacher_NK: Tensor, image_N: Tensor, class_K: Tensor
    ) -> Tensor:
        log_p_NK = F.log_softmax(student_NK / temperature, dim=1)
        log_t_NK = F.log_softmax(teacher_NK / temperature, dim=1)
        p_NK, t_NK = log_p_NK.exp(), log_t_NK.exp()
        each_image_N = temperature**2 * kl(log_t_NK, log_p_NK) + squared_rows(p_NK @ p_NK.T - t_NK @ t_NK.T)
        each_class_K = squared_rows(p_NK.T @ p_NK - t_NK.T @ t_NK)
        return (image_N * each_image_N).mean() + (class_K * each_class_K).mean()


def squared_rows(matrix: Tensor) -> Tensor:
    return matrix.square().sum(dim=1)
