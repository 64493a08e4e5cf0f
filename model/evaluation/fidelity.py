"""How closely a student follows its teacher, whether the teacher is right or wrong.

Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021. https://arxiv.org/abs/2106.05945
Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019. https://arxiv.org/abs/1905.00414
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..types import Output
from .metrics import accuracy

TEMPERATURES = (1, 4)  # of the divergences that are reported


def fidelity_of(student: Output, teacher: Output, labels_N: Tensor) -> dict[str, float]:
    """The teacher's accuracy, and how closely the student follows it: predictions, probabilities and embeddings."""
    student_NK, teacher_NK = student.logits, teacher.logits
    metrics = {"teacher_accuracy": accuracy(teacher_NK, labels_N), "agreement": agreement(student_NK, teacher_NK)}
    metrics |= {f"divergence_at_{t}": divergence(student_NK, teacher_NK, t) for t in TEMPERATURES}
    optional = {
        "wrong_alike": wrong_alike(student_NK, teacher_NK, labels_N),
        "cka": linear_cka(student.embedding, teacher.embedding),
    }
    return metrics | {name: value for name, value in optional.items() if value is not None}


def agreement(student_NK: Tensor, teacher_NK: Tensor) -> float:
    """The fraction of samples for which both predict the same class."""
    return float((student_NK.argmax(dim=1) == teacher_NK.argmax(dim=1)).double().mean())


def divergence(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> float:
    """Mean KL divergence of the student's probabilities from the teacher's at a temperature, in nats."""
    log_p_student_NK, log_p_teacher_NK = (
        (logits_NK.double() / temperature).log_softmax(dim=1) for logits_NK in (student_NK, teacher_NK)
    )
    return float(F.kl_div(log_p_student_NK, log_p_teacher_NK, log_target=True, reduction="batchmean"))


def wrong_alike(student_NK: Tensor, teacher_NK: Tensor, labels_N: Tensor) -> float | None:
    """Of the samples that both get wrong, the fraction with the same wrong class; None where there are none."""
    student_N, teacher_N = student_NK.argmax(dim=1), teacher_NK.argmax(dim=1)
    both_wrong_N = (student_N != labels_N) & (teacher_N != labels_N)
    if not both_wrong_N.any():
        return None
    return float((student_N == teacher_N)[both_wrong_N].double().mean())


def linear_cka(student_ND: Tensor, teacher_NE: Tensor) -> float | None:
    """Centred kernel alignment of two embeddings with linear kernels, in [0, 1]: 1 if they are equal up to rotation.

    None where one of them is constant.

    Eq. 3 of Kornblith et al., in the form whose matrices are as large as the embeddings.
    """
    x_ND, y_NE = (values.double() - values.double().mean(dim=0) for values in (student_ND, teacher_NE))
    cross = (x_ND.T @ y_NE).square().sum()
    own = (x_ND.T @ x_ND).norm() * (y_NE.T @ y_NE).norm()
    return float(cross / own) if own else None
