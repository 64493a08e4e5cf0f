"""Contrastive representation distillation: tell the teacher's embedding of an image from that of other images.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020.
https://arxiv.org/abs/1910.10699
Both embeddings are projected and brought to unit length. Banks hold the projections that each training image had when
it was last seen. With the image itself as the positive and k images of other classes as negatives, an anchor a has
    -log(P+ / (P+ + k / n + 1e-7)) - sum over negatives of log((k / n) / (P- + k / n + 1e-7)),
    P = exp(a . bank row / temperature) / Z,
the mean over the batch, once with the student's projection against the teacher's bank and once the other way round.
n is the number of training images and Z the first batch's mean of the exponentials times n, kept from then on.

Follows the authors' code, with these settings beside {"ce": {}} for CIFAR-100, but for one thing: negatives are drawn
independently, so an image may come twice, where the code draws each at most once. Which ones is a function of
(seed, epoch, image).

All scores of a batch are computed, (N, M), and those of the negatives are picked from them: that is quicker and far
smaller than rows of the banks, (N, k, dimensions). A step copies both banks once.
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


@LOSSES.register("crd")
class ContrastiveRepresentationDistillation(DistillLoss):
    """Noise-contrastive estimation between both networks' projected embeddings; uses labels to draw negatives.

    Args:
        num_negatives: Images of other classes that each image is told from; 1 or more.
        temperature: Divides the cosines; above 0.
        momentum: Share of a bank's row that stays when its image is seen again, in [0, 1).
        embedding_size: Dimensions that both embeddings are projected to; 1 or more.
    """

    needs = frozenset({"embedding"})
    global_batch: frozenset[Part] = frozenset({"embedding"})
    published = TermOptions(weight=0.8)

    # Made in `prepare`: banks (M, E), their Z; the used images by class, and where in them each class lies (K).
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

    def prepare(self, setting: LossContext) -> None:
        assert setting.teacher is not None
        self.seed = setting.seed
        self.project_student = nn.Linear(setting.student.embedding.shape[1], self.embedding_size)
        self.project_teacher = nn.Linear(setting.teacher.embedding.shape[1], self.embedding_size)
        bound = math.sqrt(3 / self.embedding_size)  # of uniform numbers, for rows of about unit length
        for side in ("student", "teacher"):
            bank_ME = torch.empty(len(setting.labels), self.embedding_size).uniform_(-bound, bound)
            self.register_buffer(f"{side}_bank", bank_ME)
            self.register_buffer(f"{side}_scale", torch.tensor(math.nan))  # until the first batch
        self._sort(setting.labels, num_classes=setting.student.logits.shape[1])

    def _sort(self, labels_M: Tensor, num_classes: int) -> None:
        """Note which images are used and in which class; that follows from the data, so it is not saved."""
        order_M = labels_M.argsort(stable=True)
        used = order_M[labels_M[order_M] >= 0]
        count_K = labels_M[used].bincount(minlength=num_classes)
        if (count_K > 0).sum() < 2:
            raise ValueError("draws negatives from other classes, and the training images are of one")
        for name, tensor in (
            ("images_by_class", used),
            ("class_sizes", count_K),
            ("class_starts", count_K.cumsum(0) - count_K),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        student_NE = l2_normalize(self.project_student(student.embedding))
        teacher_NE = l2_normalize(self.project_teacher(teacher.embedding))
        chosen_NX = torch.cat([batch.index[:, None], self.negatives(batch)], dim=1)  # the positive first
        student_NX = self._scores(student_NE, self.teacher_bank, chosen_NX)
        teacher_NX = self._scores(teacher_NE, self.student_bank, chosen_NX)
        self.student_scale = self._first(self.student_scale, student_NX)
        self.teacher_scale = self._first(self.teacher_scale, teacher_NX)
        loss = self._contrast(student_NX, self.student_scale) + self._contrast(teacher_NX, self.teacher_scale)
        self.student_bank = self._seen(self.student_bank, student_NE, batch.index)
        self.teacher_bank = self._seen(self.teacher_bank, teacher_NE, batch.index)
        return loss

    def negatives(self, batch: Batch) -> Tensor:
        """Images of other classes for each image, (N, k), a function of seed, epoch and image."""
        draw_k = torch.arange(self.num_negatives, device=batch.index.device)
        number_Nk = batch.index[:, None] * self.num_negatives + draw_k
        bits_Nk = random_bits_tensor(self.seed, NEGATIVE, int(self.epoch), index=number_Nk) & (2**63 - 1)
        first_N1, count_N1 = self.class_starts[batch.labels, None], self.class_sizes[batch.labels, None]
        place_Nk = bits_Nk % (len(self.images_by_class) - count_N1)
        return self.images_by_class[place_Nk + count_N1 * (place_Nk >= first_N1)]  # past the image's own class

    def _scores(self, anchor_NE: Tensor, bank_ME: Tensor, chosen_NX: Tensor) -> Tensor:
        """Cosines of each anchor and its chosen rows, over the temperature."""
        return (anchor_NE @ bank_ME.T).gather(1, chosen_NX) / self.temperature

    def _first(self, scale: Tensor, score_NX: Tensor) -> Tensor:
        """Z: what it is, or where this is the first batch, what it becomes."""
        return torch.where(scale.isnan(), score_NX.detach().exp().mean() * len(self.images_by_class), scale)

    def _contrast(self, score_NX: Tensor, scale: Tensor) -> Tensor:
        noise = self.num_negatives / len(self.images_by_class)
        log_p_NX = score_NX - scale.log()
        log_sum_NX = (log_p_NX.exp() + noise + EPSILON).log()
        positive_N = log_p_NX[:, 0] - log_sum_NX[:, 0]
        negative_N = (math.log(noise) - log_sum_NX[:, 1:]).sum(dim=1)
        return -(positive_N + negative_N).mean()

    def _seen(self, bank_ME: Tensor, embedding_NE: Tensor, index_N: Tensor) -> Tensor:
        """A new bank, as the old one is in the graph, with the rows of these images moved towards what they are now."""
        old_NE, now_NE = bank_ME[index_N], embedding_NE.detach()
        return bank_ME.index_copy(0, index_N, l2_normalize(self.momentum * old_NE + (1 - self.momentum) * now_NE))
