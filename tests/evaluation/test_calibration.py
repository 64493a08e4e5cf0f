"""Calibration: hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.evaluation.calibration import brier_score, calibration_error, reliability


def logits_of(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities).log()


def test_error_is_the_distance_of_confidence_and_accuracy_by_bins() -> None:
    # Four samples of confidence 0.9, three right; two of confidence 0.6, one right:
    # 4/6 * |0.9 - 0.75| + 2/6 * |0.6 - 0.5| = 0.1 + 0.0333.
    logits = logits_of([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    assert calibration_error(logits, labels) == pytest.approx(0.1 + 0.1 / 3, abs=1e-6)


def test_a_network_that_is_as_sure_as_it_is_right_has_no_error() -> None:
    logits = logits_of([[0.75, 0.25]] * 4)
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0, abs=1e-6)


def test_brier_score_of_two_samples() -> None:
    # (0.2^2 + 0.2^2) for the right one, (0.7^2 + 0.7^2) for the wrong one.
    logits = logits_of([[0.8, 0.2], [0.7, 0.3]])
    assert brier_score(logits, torch.tensor([0, 1])) == pytest.approx((0.08 + 0.98) / 2, abs=1e-6)


def test_brier_score_is_2_for_a_network_that_is_sure_and_wrong() -> None:
    assert brier_score(torch.tensor([[100.0, 0.0]]), torch.tensor([1])) == pytest.approx(2.0)


def test_reliability_has_counts_and_means_of_each_bin() -> None:
    logits = logits_of([[0.9, 0.1]] * 4 + [[0.62, 0.38], [0.66, 0.34]])
    found = reliability(logits, torch.tensor([0, 0, 0, 1, 0, 1]), num_bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 4]
    assert found.confidence[[6, 9]].tolist() == pytest.approx([0.64, 0.9])
    assert found.accuracy.tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0.75]


def test_probability_1_is_in_the_last_bin() -> None:
    found = reliability(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
    assert found.counts.tolist() == [0] * 14 + [1]


def test_error_is_that_of_the_reliability_diagram() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 7, generator=generator)
    labels = torch.randint(0, 7, (500,), generator=generator)
    bins = reliability(logits, labels)
    expected = math.fsum((bins.counts / 500 * (bins.confidence - bins.accuracy).abs()).tolist())
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-6)
