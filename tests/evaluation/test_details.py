"""The details of an evaluation, worked by hand."""

from __future__ import annotations

import pytest
import torch

from model.evaluation.details import details_of
from model.evaluation.metrics import Predictions


def test_details_of_a_worked_case() -> None:
    # Labels 0 0 0 0 1 1; predicted 0 0 0 1 1 0, each with probability 0.8.
    predicted = torch.tensor([0, 0, 0, 1, 1, 0])
    probabilities = torch.full((6, 2), 0.2).scatter(1, predicted[:, None], 0.8)
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    details = details_of(Predictions(probabilities.log(), labels, torch.arange(6)))
    assert details["calibration_error"] == pytest.approx(0.8 - 4 / 6, abs=1e-6)
    assert details["brier_score"] == pytest.approx((4 * 0.08 + 2 * 1.28) / 6, abs=1e-6)
    assert details["accuracy_low"] < 4 / 6 < details["accuracy_high"]
