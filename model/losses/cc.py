"""Correlation congruence: match the correlations between images, by a Gaussian kernel.

Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.
https://arxiv.org/abs/1904.01802
    mean over i, j of (k(t_i, t_j) - k(s_i, s_j))^2, with k(x, y) = sum over p up to P of
    exp(-2 gamma) * (2 gamma)^p / p! * cos(x, y)^p,
the Taylor series of the kernel exp(-gamma |x - y|^2) of embeddings at unit length. The two networks' embeddings may
have different widths, so there is no projection. The weight is that of Knowledge-Distillation-Zoo, with {"ce": {}}; the
paper's "instance congruence" is `kd`. RepDistiller's loss of this name is `cc_linear`.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output, Part, TermOptions
from .base import DistillLoss
from .relations import l2_normalize, require_batch


@LOSSES.register("cc", default_term=TermOptions(weight=100.0))
class CorrelationCongruence(DistillLoss):
    """Mean squared difference of the kernels between the batch's images, by embeddings; uses no labels.

    Args:
        gamma: The kernel's inverse width; above 0.
        order: Highest power of the series; 1 or more.
    """

    needs = frozenset({"embedding"})
    labels = "none"
    global_batch: frozenset[Part] = frozenset({"embedding"})

    def __init__(self, *, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if order < 1:
            raise ValueError(f"order must be 1 or more, got {order}")
        self.factors = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return F.mse_loss(self.kernel(student.embedding), self.kernel(teacher.embedding))

    def kernel(self, embedding_ND: Tensor) -> Tensor:
        """The kernel of every two images: (N, D) to (N, N)."""
        direction_ND = l2_normalize(require_batch(embedding_ND))
        cosine_NN = direction_ND @ direction_ND.T
        kernel_NN = cosine_NN.new_zeros(cosine_NN.shape)
        for factor in reversed(self.factors):
            kernel_NN = kernel_NN * cosine_NN + factor
        return kernel_NN
