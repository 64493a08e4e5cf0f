"""Losses as slow float64 loops, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Logits = Array  # (N, K)
Labels = Sequence[int]
Maps = Sequence[Array]  # of each stage (N, C, H, W)


class ArrayOutput(NamedTuple):
    """A network's output as arrays."""

    logits: Logits
    embedding: Array  # (N, D)
    maps: Maps
    preacts: Maps
    stem: Array  # (N, C, H, W)


def log_probabilities(scores: Sequence[float] | Array, temperature: float = 1.0) -> list[float]:
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
    """Cross-entropy with the labels, each image weighted by the teacher's largest probability over their sum."""
    total = weights = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        confidence = max(np.exp(score) for score in teacher_scores) / sum(np.exp(score) for score in teacher_scores)
        total += confidence * cross_entropy(student_scores[None], [label])
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
    """Mean squared difference after a 1x1 convolution, batch norm with the batch's statistics and perhaps a ReLU."""
    num_images, num_channels, height, width = teacher_NCHW.shape
    positions = [(n, h, w) for n in range(num_images) for h in range(height) for w in range(width)]
    total = 0.0
    for d in range(num_channels):
        values = [float(weight_DC11[d, :, 0, 0] @ student_NCHW[n, :, h, w]) for n, h, w in positions]
        mean = sum(values) / len(values)  # subtracting it removes the convolution's bias, too
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        for (n, h, w), value in zip(positions, values, strict=True):
            normalised = (value - mean) / math.sqrt(variance + 1e-5)
            total += ((max(normalised, 0.0) if relu else normalised) - teacher_NCHW[n, d, h, w]) ** 2
    return total / teacher_NCHW.size


def standardized(logits: Logits) -> Logits:
    """Each row minus its mean, divided by its standard deviation (with K - 1) plus 1e-7."""
    rows = []
    for scores in logits:
        mean = sum(scores) / len(scores)
        deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        rows.append([(score - mean) / (deviation + 1e-7) for score in scores])
    return np.array(rows)


def binary_kl(one: float, other: float) -> float:
    """KL of two distributions over two outcomes, given the first outcome's probabilities."""
    return one * math.log(one / other) + (1 - one) * math.log((1 - one) / (1 - other))


def probability(scores: Sequence[float] | Array, k: int, temperature: float = 1.0) -> float:
    return math.exp(log_probabilities(scores, temperature)[k])


def decoupled(
    student: Logits, teacher: Logits, labels: Labels, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> float:
    total = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        total += alpha * binary_kl(
            probability(teacher_scores, label, temperature), probability(student_scores, label, temperature)
        )
        total += beta * kl(np.delete(teacher_scores, label)[None], np.delete(student_scores, label)[None], temperature)
    return temperature**2 * total / len(student)


def pearson(one: Sequence[float], other: Sequence[float]) -> float:
    mean, other_mean = sum(one) / len(one), sum(other) / len(other)
    product = sum((a - mean) * (b - other_mean) for a, b in zip(one, other, strict=True))
    lengths = math.sqrt(sum((a - mean) ** 2 for a in one)) * math.sqrt(sum((b - other_mean) ** 2 for b in other))
    return product / (lengths + 1e-8)


def softened(logits: Logits, temperature: float) -> Array:
    return np.array([[math.exp(log_p) for log_p in log_probabilities(scores, temperature)] for scores in logits])


def stronger_teacher(student: Logits, teacher: Logits, beta: float, gamma: float, temperature: float) -> float:
    p_NK, q_NK = softened(student, temperature), softened(teacher, temperature)
    inter = 1 - sum(pearson(p, q) for p, q in zip(p_NK, q_NK, strict=True)) / len(p_NK)
    intra = 1 - sum(pearson(p, q) for p, q in zip(p_NK.T, q_NK.T, strict=True)) / len(p_NK.T)
    return temperature**2 * (beta * inter + gamma * intra)


def dot(one: Array, other: Array) -> float:
    return float(sum(a * b for a, b in zip(one.ravel(), other.ravel(), strict=True)))


def cosine(one: Array, other: Array) -> float:
    lengths = math.sqrt(dot(one, one) * dot(other, other))
    return dot(one, other) / lengths if lengths else 0.0


def similarity_preserving(student_NCHW: Array, teacher_NCHW: Array) -> float:
    N = len(student_NCHW)
    total = 0.0
    for i in range(N):
        rows = [[dot(images[i], images[j]) for j in range(N)] for images in (student_NCHW, teacher_NCHW)]
        lengths = [math.sqrt(sum(value**2 for value in row)) for row in rows]
        total += sum((rows[0][j] / lengths[0] - rows[1][j] / lengths[1]) ** 2 for j in range(N))
    return total / N**2


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def relational(student: Array, teacher: Array, distance_weight: float = 25.0, angle_weight: float = 50.0) -> float:
    N = len(student)
    images = range(N)
    relative = []
    for points in (student, teacher):
        distance = [[math.sqrt(dot(points[j] - points[i], points[j] - points[i])) for j in images] for i in images]
        mean = sum(map(sum, distance)) / (N * (N - 1))
        relative.append([[value / mean for value in row] for row in distance])
    by_distance = sum(huber(relative[0][i][j] - relative[1][i][j]) for i in images for j in images)
    by_angle = 0.0
    for i in images:
        for j in images:
            for k in images:
                angles = [cosine(points[j] - points[i], points[k] - points[i]) for points in (student, teacher)]
                by_angle += huber(angles[0] - angles[1])
    return distance_weight * by_distance / N**2 + angle_weight * by_angle / N**3


def probabilistic_transfer(student: Array, teacher: Array) -> float:
    N = len(student)
    total = 0.0
    for i in range(N):
        p, q = ([(cosine(points[i], points[j]) + 1) / 2 for j in range(N)] for points in (teacher, student))
        for j in range(N):
            total += p[j] / sum(p) * math.log((p[j] / sum(p) + 1e-7) / (q[j] / sum(q) + 1e-7))
    return total / N**2


def correlation_congruence(student: Array, teacher: Array, gamma: float = 0.4, order: int = 2) -> float:
    def kernel(cosine_of_two: float) -> float:
        series = sum((2 * gamma * cosine_of_two) ** p / math.factorial(p) for p in range(order + 1))
        return math.exp(-2 * gamma) * series

    N = len(student)
    total = 0.0
    for i in range(N):
        for j in range(N):
            total += (kernel(cosine(student[i], student[j])) - kernel(cosine(teacher[i], teacher[j]))) ** 2
    return total / N**2


def linear(points_ND: Array, weight_ED: Array, bias_E: Array) -> Array:
    return np.array(
        [[dot(weight, point) + bias for weight, bias in zip(weight_ED, bias_E, strict=True)] for point in points_ND]
    )


def consecutive_products(student_NE: Array, teacher_NE: Array) -> float:
    distances = np.abs(student_NE - teacher_NE).tolist()
    products = [sum(a * b for a, b in zip(one, following, strict=True)) for one, following in pairwise(distances)]
    return float(sum(products) / len(products))


def normalized_kd(
    student: Logits, teacher: Logits, labels: Labels, gamma: float = 3.5, temperature: float = 3.0
) -> float:
    total = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        total -= probability(teacher_scores, label) * log_probabilities(student_scores)[label]
        rest, teacher_rest = np.delete(student_scores, label), np.delete(teacher_scores, label)
        for k, log_q in enumerate(log_probabilities(rest, temperature)):
            total -= gamma * temperature**2 * probability(teacher_rest, k, temperature) * log_q
    return total / len(student)


def weighted_soft_labels(student: Logits, teacher: Logits, labels: Labels, temperature: float = 4.0) -> float:
    total = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        ratio = cross_entropy(student_scores[None], [label]) / (cross_entropy(teacher_scores[None], [label]) + 1e-7)
        for k, log_q in enumerate(log_probabilities(student_scores, temperature)):
            total -= (1 - math.exp(-ratio)) * temperature**2 * probability(teacher_scores, k, temperature) * log_q
    return total / len(student)


def transformed_teacher(student: Logits, teacher: Logits, gamma: float, *, weighted: bool) -> float:
    total = 0.0
    for student_scores, teacher_scores in zip(student, teacher, strict=True):
        powers = [math.exp(log_p) ** gamma for log_p in log_probabilities(teacher_scores)]
        for power, log_p in zip(powers, log_probabilities(student_scores), strict=True):
            q = power / sum(powers)
            total += (sum(powers) if weighted else 1.0) * q * (math.log(q) - log_p)
    return total / len(student)


def refined(
    student: Logits,
    teacher: Logits,
    labels: Labels,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> float:
    total = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        best = max(range(len(teacher_scores)), key=lambda k: teacher_scores[k])
        confidences = [
            probability(teacher_scores, best, confidence_temperature),
            probability(student_scores, label, confidence_temperature),
        ]
        total += alpha * confidence_temperature**2 * binary_kl(*confidences)
        below = [k for k in range(len(teacher_scores)) if teacher_scores[k] < teacher_scores[label]]
        if below:
            total += beta * temperature**2 * kl(teacher_scores[below][None], student_scores[below][None], temperature)
    return total / len(student)


def one_for_all(student: Logits, teacher: Logits, labels: Labels, gamma: float) -> float:
    total = 0.0
    for student_scores, teacher_scores, label in zip(student, teacher, labels, strict=True):
        for k, log_p in enumerate(log_probabilities(student_scores)):
            is_label = float(k == label)
            total -= ((probability(teacher_scores, k) + is_label) ** gamma - is_label) * log_p
    return total / len(student)


def multi_level(
    student: Logits, teacher: Logits, labels: Labels, temperatures: Sequence[float], *, unsure_half: bool
) -> float:
    """At alpha 0.9."""
    N, K = student.shape
    plain_NK = softened(teacher, 1.0)
    largest = [max(row) for row in plain_NK]
    sums = [sum(plain_NK[:, k]) for k in range(K)]
    images = [n for n in range(N) if not unsure_half or largest[n] <= np.median(largest)]
    classes = [k for k in range(K) if not unsure_half or sums[k] <= np.median(sums)]
    soft = 0.0
    for temperature in temperatures:
        p_NK, q_NK = softened(student, temperature), softened(teacher, temperature)
        for n in images:
            soft += temperature**2 * kl(teacher[n : n + 1], student[n : n + 1], temperature) / N
            soft += sum((dot(p_NK[n], p_NK[m]) - dot(q_NK[n], q_NK[m])) ** 2 for m in range(N)) / N
        for k in classes:
            soft += sum((dot(p_NK[:, k], p_NK[:, c]) - dot(q_NK[:, k], q_NK[:, c])) ** 2 for c in range(K)) / K
    return 0.1 * cross_entropy(student, labels) + 0.9 * soft


def soft_maximum(student_ND: Array, teacher_ND: Array, exponent: float = 4.0) -> float:
    """Log of the sum of powers of the distances, each dimension with mean 0 and variance 1 over the images."""
    N, D = teacher_ND.shape
    total = 0.0
    for d in range(D):
        columns = []
        for column in (student_ND[:, d], teacher_ND[:, d]):
            mean = sum(column) / N
            variance = sum((value - mean) ** 2 for value in column) / N
            columns.append([(value - mean) / math.sqrt(variance + 1e-4) for value in column])
        total += sum(abs(a - b) ** exponent for a, b in zip(*columns, strict=True))
    return math.log(total)


def softmax_regression(
    student_NCHW: Array,
    embedding_ND: Array,
    logits: Logits,
    parameters: Mapping[str, Array],
    feature_weight: float,
    logit_weight: float,
) -> float:
    """1x1 convolution, batch norm with the batch's statistics, ReLU, mean over positions; then the classifier."""
    N, D = embedding_ND.shape
    positions = [(h, w) for h in range(student_NCHW.shape[2]) for w in range(student_NCHW.shape[3])]
    projected_ND = np.zeros((N, D))
    for d, weight_C11 in enumerate(parameters["connector.0.weight"]):
        values = [[dot(weight_C11, student_NCHW[n, :, h, w]) for h, w in positions] for n in range(N)]
        count = N * len(positions)
        mean = sum(map(sum, values)) / count
        variance = sum((value - mean) ** 2 for row in values for value in row) / count
        for n in range(N):
            normalised = [(value - mean) / math.sqrt(variance + 1e-5) for value in values[n]]
            projected_ND[n, d] = sum(max(value, 0.0) for value in normalised) / len(positions)
    student_logits = linear(projected_ND, parameters["classifier_weight"], parameters["classifier_bias"])
    features = mean_squared_difference(projected_ND, embedding_ND)
    return feature_weight * features + logit_weight * mean_squared_difference(student_logits, logits)
