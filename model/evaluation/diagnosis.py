"""Numbers that tell why a student learns from its teacher, or does not: how soft outputs are, what they rest on.

All are of training views, on which the teacher teaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .metrics import accuracy

# A temperature makes sense where it shows the wrong classes, but does not drown the right one: the probability outside
# of the top class, mean over images. A rule of thumb of ours. Below 1, outputs are harder than the teacher's own.
SENSIBLE_MASS = (0.1, 0.6)
TEMPERATURES = (0.05, 100.0)  # between which one is looked for
CONFIDENT = 0.9


class Softness(NamedTuple):
    """How soft a teacher's outputs are: means over images."""

    entropy: float  # at temperature 1, in nats
    mass_at_1: float  # probability outside of the top class
    mass_at_temperature: float  # the same at the temperature of the run
    sensible_temperatures: tuple[float, float]


def softness(logits_NK: Tensor, temperature: float) -> Softness:
    """Of a teacher's logits for training views."""
    log_p_NK = logits_NK.double().log_softmax(dim=1)
    low, high = (max(1.0, temperature_with_mass(logits_NK, mass)) for mass in SENSIBLE_MASS)
    return Softness(
        entropy=float(-(log_p_NK.exp() * log_p_NK).sum(dim=1).mean()),
        mass_at_1=mass_outside_top(logits_NK, 1.0),
        mass_at_temperature=mass_outside_top(logits_NK, temperature),
        sensible_temperatures=(low, high),
    )


def mass_outside_top(logits_NK: Tensor, temperature: float) -> float:
    """Mean probability outside of the top class at a temperature."""
    return float(1 - (logits_NK.double() / temperature).softmax(dim=1).amax(dim=1).mean())


def temperature_with_mass(logits_NK: Tensor, mass: float) -> float:
    """The temperature at which the mean probability outside of the top class is `mass`, by bisection."""
    low, high = (math.log(bound) for bound in TEMPERATURES)
    for _ in range(40):
        middle = (low + high) / 2
        if mass_outside_top(logits_NK, math.exp(middle)) < mass:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def label_smoothing_of(logits_NK: Tensor) -> float:
    """The least label smoothing after which outputs look as these do.

    Label smoothing e teaches that every wrong class has the probability e / K, even where a network is sure; without it
    the least likely class has next to none there. So it is K times the median of the smallest probabilities, over the
    tenth of the images with the largest ones.
    """
    p_NK = logits_NK.double().softmax(dim=1)
    surest = p_NK.amax(dim=1).topk(max(1, len(p_NK) // 10)).indices
    return float(logits_NK.shape[1] * p_NK[surest].amin(dim=1).median())


class Labels(NamedTuple):
    """How far a teacher agrees with the labels that its student learns."""

    accuracy: float
    contradicted: float  # of the images on which it is confident, those with another label


def agreement_with_labels(logits_NK: Tensor, labels_N: Tensor) -> Labels:
    """Of a teacher's logits for training views."""
    confidence_N, predicted_N = logits_NK.double().softmax(dim=1).max(dim=1)
    confident_N = confidence_N > CONFIDENT
    wrong_N = (predicted_N != labels_N) & confident_N
    contradicted = float(wrong_N.sum() / confident_N.sum()) if confident_N.any() else 0.0
    return Labels(accuracy(logits_NK, labels_N), contradicted)


def gradient_shares(norms_of: Callable[[int], dict[str, Tensor]], num_batches: int) -> dict[str, float]:
    """The share of every loss term in the sum of their gradients' norms, over a few batches.

    Args:
        norms_of: Number of a batch -> the norm of every term's gradient.
    """
    totals: dict[str, float] = {}
    for number in range(num_batches):
        for name, norm in norms_of(number).items():
            totals[name] = totals.get(name, 0.0) + float(norm)
    all_terms = sum(totals.values())
    return {name: total / all_terms if all_terms else 0.0 for name, total in totals.items()}


def worse_classes(teacher: dict[str, float], student: dict[str, float]) -> list[str]:
    """The classes on which a teacher is less accurate than the student alone."""
    return [name for name, value in teacher.items() if name in student and value < student[name]]


def accuracy_by_class(logits_NK: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> dict[str, float]:
    """Class -> accuracy, of those with images."""
    correct_N = logits_NK.argmax(dim=1) == labels_N
    counts_K = torch.bincount(labels_N, minlength=len(class_names))
    correct_K = torch.bincount(labels_N[correct_N], minlength=len(class_names))
    return {
        name: int(correct) / int(count)
        for name, correct, count in zip(class_names, correct_K, counts_K, strict=True)
        if count
    }
