"""Distributions over classes, as several losses compute them from logits: always log-probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl(log_p_teacher_NK: Tensor, log_p_student_NK: Tensor) -> Tensor:
    """KL(teacher || student) of each image: (N, K) twice to (N,)."""
    return F.kl_div(log_p_student_NK, log_p_teacher_NK, log_target=True, reduction="none").sum(dim=1)


def target_values(value_NK: Tensor, class_N: Tensor) -> Tensor:
    """The value at each image's class: (N, K) to (N,)."""
    return value_NK.gather(1, class_N[:, None]).squeeze(1)


def non_target_logits(logits_NK: Tensor, class_N: Tensor) -> Tensor:
    """The logits without each image's class: (N, K) to (N, K - 1)."""
    column_R = torch.arange(logits_NK.shape[1] - 1, device=logits_NK.device)
    return logits_NK.gather(1, column_R + (column_R >= class_N[:, None]))


def target_against_rest(logits_NK: Tensor, class_N: Tensor) -> Tensor:
    """Log-probabilities of each image's class and of all others together: (N, K) to (N, 2)."""
    # Not 1 - p, which is 0 in float32 where the network is certain.
    rest_N = non_target_logits(logits_NK, class_N).logsumexp(dim=1)
    return F.log_softmax(torch.stack([target_values(logits_NK, class_N), rest_N], dim=1), dim=1)


def standardized(logits_NK: Tensor) -> Tensor:
    """Each image's logits with mean 0 and standard deviation 1.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024. https://arxiv.org/abs/2403.01427
    The deviation is the unbiased one, and 1e-7 is added to it, as in the authors' code.
    """
    centred_NK = logits_NK - logits_NK.mean(dim=1, keepdim=True)
    return centred_NK / (logits_NK.std(dim=1, keepdim=True) + 1e-7)
