"""Contrastive representation distillation: distinguish the teacher's embedding of an image from those of other images.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020.
https://arxiv.org/abs/1910.10699
Both embeddings are projected and brought to unit length. Two memory banks hold a moving average of each training
image's projections. With the image itself as the positive and k images of other classes as negatives, an anchor a has
    -log(P+ / (P+ + k / n + 1e-7)) - sum over negatives of log((k / n) / (P- + k / n + 1e-7)),
    P = exp(a . bank row / temperature) / Z,
the mean over the batch, once with the student's projection against the teacher's bank and once the other way round.
n is the number of training images and Z the first batch's mean of the exponentials times n, constant from then on.

Used with {"ce": {}}. Follows the authors' code and its settings for CIFAR-100, with one difference: negatives are drawn
independently, so an image may be drawn twice, where the code draws each at most once. The draw is a function of
(seed, epoch, image).

All scores of a batch are computed, (N, M), and those of the negatives are gathered from them: this is faster and takes
far less memory than the banks' rows, (N, k, dimensions). A step copies both banks once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..randomness import NEGATIVE, random_bits_tensor
from ..registry import LOSSES
from ..types import Batch, LossContext, Output, Part, TermOptions
from .base import DistillLoss
from .relations import l2_normalize

EPSILON = 1e-7


@LOSSES.register("crd", default_term=TermOptions(weight=0.8))
class ContrastiveRepresentationDistillation(DistillLoss):
    """Noise-contrastive estimation between both networks' projected embeddings; uses labels to draw negatives.

    Args:
        num_negatives: Negatives of each image, images of other classes; 1 or more.
        temperature: Divides the cosines; above 0.
        momentum: Share of the old row when a bank's row is updated, in [0, 1).
        embedding_size: Dimensions of both projections; 1 or more.
    """

    needs = frozenset({"embedding"})
    labels = "single"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    # Created in `prepare`: banks (M, E) and their Z; the used images sorted by class, each class's start and size (K).
    student_bank: Tensor
    teacher_bank: Tensor
    student_scale: Tensor
    teacher_scale: Tensor
    images_by_class: Tensor
    class_starts: Tensor
    class_sizes: Tensor

    def __init__(
        self,
        *,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        for name, value in (("num_negatives", num_negatives), ("embedding_size", embedding_size)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.num_negatives, self.temperature = num_negatives, temperature
        self.momentum, self.embedding_size = momentum, embedding_size

    def prepare(self, context: LossContext) -> None:
        assert context.teacher is not None
        self.seed = context.seed
        self.project_student = nn.Linear(context.student.embedding.shape[1], self.embedding_size)
        self.project_teacher = nn.Linear(context.teacher.embedding.shape[1], self.embedding_size)
        bound = math.sqrt(3 / self.embedding_size)  # uniform in +-bound: rows of about unit length
        for network in ("student", "teacher"):
            bank_ME = torch.empty(len(context.labels), self.embedding_size).uniform_(-bound, bound)
            self.register_buffer(f"{network}_bank", bank_ME)
            self.register_buffer(f"{network}_scale", torch.tensor(math.nan))  # Z, until the first batch
        self._index_classes(context.labels, num_classes=context.student.logits.shape[1])

    def _index_classes(self, labels_M: Tensor, num_classes: int) -> None:
        """Sort the used images by class; this follows from the data, so it is not saved."""
        order_M = labels_M.argsort(stable=True)
        used = order_M[labels_M[order_M] >= 0]
        count_K = labels_M[used].bincount(minlength=num_classes)
        if (count_K > 0).sum() < 2:
            raise ValueError("draws negatives from other classes, but the training images are all of one class")
        for name, tensor in (
            ("images_by_class", used),
            ("class_sizes", count_K),
            ("class_starts", count_K.cumsum(0) - count_K),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NE = l2_normalize(self.project_student(student.embedding))
        teacher_NE = l2_normalize(self.project_teacher(teacher.embedding))
        sample_NX = torch.cat([batch.index[:, None], self.negatives(batch)], dim=1)  # the positive first
        student_NX = self._scores(student_NE, self.teacher_bank, sample_NX)
        teacher_NX = self._scores(teacher_NE, self.student_bank, sample_NX)
        self.student_scale = self._scale(self.student_scale, student_NX)
        self.teacher_scale = self._scale(self.teacher_scale, teacher_NX)
        loss = self._contrast(student_NX, self.student_scale) + self._contrast(teacher_NX, self.teacher_scale)
        self.student_bank = self._updated(self.student_bank, student_NE, batch.index)
        self.teacher_bank = self._updated(self.teacher_bank, teacher_NE, batch.index)
        return loss

    def negatives(self, batch: Batch) -> Tensor:
        """Images of other classes for each image, (N, k), a function of seed, epoch and image."""
        draw_k = torch.arange(self.num_negatives, device=batch.index.device)
        number_Nk = batch.index[:, None] * self.num_negatives + draw_k
        bits_Nk = random_bits_tensor(self.seed, NEGATIVE, int(self.epoch), index=number_Nk) & (2**63 - 1)
        start_N1, count_N1 = self.class_starts[batch.labels, None], self.class_sizes[batch.labels, None]
        position_Nk = bits_Nk % (len(self.images_by_class) - count_N1)
        return self.images_by_class[position_Nk + count_N1 * (position_Nk >= start_N1)]  # skips the image's own class

    def _scores(self, anchor_NE: Tensor, bank_ME: Tensor, sample_NX: Tensor) -> Tensor:
        """Cosines of each anchor with its samples' rows, divided by the temperature."""
        return (anchor_NE @ bank_ME.T).gather(1, sample_NX) / self.temperature

    def _scale(self, scale: Tensor, score_NX: Tensor) -> Tensor:
        """Z, which the first batch sets."""
        return torch.where(scale.isnan(), score_NX.detach().exp().mean() * len(self.images_by_class), scale)

    def _contrast(self, score_NX: Tensor, scale: Tensor) -> Tensor:
        noise = self.num_negatives / len(self.images_by_class)
        log_p_NX = score_NX - scale.log()
        log_sum_NX = (log_p_NX.exp() + noise + EPSILON).log()
        positive_N = log_p_NX[:, 0] - log_sum_NX[:, 0]
        negative_N = (math.log(noise) - log_sum_NX[:, 1:]).sum(dim=1)
        return -(positive_N + negative_N).mean()

    def _updated(self, bank_ME: Tensor, embedding_NE: Tensor, index_N: Tensor) -> Tensor:
        """A copy of the bank, as autograd needs the old one, in which these images' rows are averaged with the new."""
        old_NE, new_NE = bank_ME[index_N], embedding_NE.detach()
        return bank_ME.index_copy(0, index_N, l2_normalize(self.momentum * old_NE + (1 - self.momentum) * new_NE))
