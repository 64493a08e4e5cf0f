"""Whether a network's probabilities can be taken at their word: calibration error, Brier score, reliability diagram."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. https://arxiv.org/abs/1706.04599


class Reliability(NamedTuple):
    """Samples by their confidence, the probability of the predicted class, in bins of equal width: (num_bins,) each."""

    counts: Tensor
    confidence: Tensor  # mean of the bin; 0 where it is empty
    accuracy: Tensor  # likewise


def calibration_error(logits_NK: Tensor, labels_N: Tensor, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence and accuracy over bins, by their samples."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities_NK = logits_NK.softmax(dim=1)
    error = multiclass_calibration_error(
        probabilities_NK, labels_N, num_classes=logits_NK.shape[1], n_bins=num_bins, norm="l1"
    )
    return float(error)


def brier_score(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Mean squared distance of the probabilities to the label's one-hot vector, in [0, 2] (Brier, 1950)."""
    one_hot_NK = F.one_hot(labels_N, logits_NK.shape[1])
    return float((logits_NK.softmax(dim=1) - one_hot_NK).square().sum(dim=1).mean())


def reliability(logits_NK: Tensor, labels_N: Tensor, num_bins: int = NUM_BINS) -> Reliability:
    """What a reliability diagram shows."""
    confidence_N, predicted_N = logits_NK.softmax(dim=1).max(dim=1)
    bin_N = (confidence_N * num_bins).long().clamp(max=num_bins - 1)
    counts = torch.bincount(bin_N, minlength=num_bins)

    def mean(values_N: Tensor) -> Tensor:
        return torch.bincount(bin_N, values_N.double(), minlength=num_bins) / counts.clamp(min=1)

    return Reliability(counts, mean(confidence_N), mean(predicted_N == labels_N))
