"""Losses as slow float64 loops, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Logits = Array  # (N, K)
Labels = Sequence[int]
Maps = Sequence[Array]  # of each stage (N, C, H, W)


class Said(NamedTuple):
    """What a network says, as arrays."""

    logits: Logits
    embedding: Array  # (N, D)
    maps: Maps
    preacts: Maps
    stem: Array  # (N, C, H, W)


def log_probabilities(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    scaled = [score / temperature for score in scores]
    highest = max(scaled)
    log_total = highest + math.log(sum(math.exp(value - highest) for value in scaled))
    return [value - log_total for value in scaled]


def cross_entropy(student: Logits, labels: Labels, label_smoothing: float = 0.0) -> float:
    total = 0.0
    for scores, label in zip(student, labels, strict=True):
        for k, log_p in enumerate(log_probabilities(scores)):
            target = label_smoothing / len(scores) + (1 - label_smoothing) * (k == label)
            total -= target * log_p
    return total / len(student)


def kl(teacher: Logits, student: Logits, temperature: float) -> float:
    """KL(teacher || student) of the softened distributions, mean over the batch."""
    total = 0.0
    for teacher_scores, student_scores in zip(teacher, student, strict=True):
        log_p_teacher = log_probabilities(teacher_scores, temperature)
        log_p_student = log_probabilities(student_scores, temperature)
        for log_p, log_q in zip(log_p_teacher, log_p_student, strict=True):
            total += math.exp(log_p) * (log_p - log_q)
    return total / len(student)


def entropy(scores_of_batch: Logits, temperature: float) -> float:
    """Mean over the batch of the softened distributions' entropies."""
    total = 0.0
    for scores in scores_of_batch:
        for log_p in log_probabilities(scores, temperature):
            total -= math.exp(log_p) * log_p
    return total / len(scores_of_batch)


def mean_squared_difference(student: Logits, teacher: Logits) -> float:
    total = 0.0
    for student_scores, teacher_scores in zip(student, teacher, strict=True):
        for a, b in zip(student_scores, teacher_scores, strict=True):
            total += (a - b) ** 2
    return total / student.size


def weighted_by_confidence(student: Logits, teacher: Logits, labels: Labels) -> float:
    """Cross-entropy with the labels, each sample's by the teacher's largest probability, over the sum of these."""
    total = weights = 0.0
    for said, taught, label in zip(student, teacher, labels, strict=True):
        confidence = max(np.exp(score) for score in taught) / sum(np.exp(score) for score in taught)
        total += confidence * cross_entropy(said[None], [label])
        weights += confidence
    return float(total / weights)


def attention(map_CHW: Array) -> list[float]:
    """Mean over channels of the squares, row by row, divided by the root of their sum of squares."""
    num_channels, height, width = map_CHW.shape
    energies = []
    for row in range(height):
        for column in range(width):
            energies.append(sum(map_CHW[c, row, column] ** 2 for c in range(num_channels)) / num_channels)
    length = math.sqrt(sum(energy**2 for energy in energies))
    return [energy / length for energy in energies]


def attention_transfer(student: Maps, teacher: Maps) -> float:
    """Sum over stages of the mean over images and positions; the maps of a stage have equal height and width."""
    total = 0.0
    for student_NCHW, teacher_NCHW in zip(student, teacher, strict=True):
        squares = []
        for student_CHW, teacher_CHW in zip(student_NCHW, teacher_NCHW, strict=True):
            for a, b in zip(attention(student_CHW), attention(teacher_CHW), strict=True):
                squares.append((a - b) ** 2)
        total += sum(squares) / len(squares)
    return total


def hint(student_NCHW: Array, teacher_NCHW: Array, weight_DC11: Array, *, relu: bool) -> float:
    """A 1x1 convolution, batch norm with the batch's statistics, a ReLU perhaps; mean squared difference."""
    num_images, num_channels, height, width = teacher_NCHW.shape
    places = [(n, h, w) for n in range(num_images) for h in range(height) for w in range(width)]
    total = 0.0
    for d in range(num_channels):
        guesses = [float(weight_DC11[d, :, 0, 0] @ student_NCHW[n, :, h, w]) for n, h, w in places]
        mean = sum(guesses) / len(guesses)  # which takes off the convolution's bias, too
        variance = sum((guess - mean) ** 2 for guess in guesses) / len(guesses)
        for (n, h, w), guess in zip(places, guesses, strict=True):
            normalised = (guess - mean) / math.sqrt(variance + 1e-5)
            total += ((max(normalised, 0.0) if relu else normalised) - teacher_NCHW[n, d, h, w]) ** 2
    return total / teacher_NCHW.size
