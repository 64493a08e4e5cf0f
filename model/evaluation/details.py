"""What evaluate.py says of a network beyond the metrics that a run writes after each epoch."""

from __future__ import annotations

from ..teachers.ensemble import mean_of_probabilities
from ..training.precision import widest_float
from .calibration import brier_score, calibration_error
from .metrics import Predictions, metrics_of
from .significance import accuracy_interval


def all_metrics_of(predictions: Predictions) -> dict[str, float]:
    """Everything that evaluate.py says of a network on its own."""
    return metrics_of(predictions) | details_of(predictions)


def metrics_of_exits(predictions: Predictions) -> dict[str, dict[str, float]]:
    """The same of each early exit, of the last one, and of the mean probabilities of all; empty without early exits."""
    if not predictions.exits:
        return {}
    logits = [*predictions.exits, predictions.logits]
    rows = {f"exit {number}": exit_NK for number, exit_NK in enumerate(logits, start=1)}
    dtype = widest_float(logits[0].device)
    rows["ensemble"] = mean_of_probabilities([exit_NK.to(dtype) for exit_NK in logits])
    return {
        name: all_metrics_of(Predictions(exit_NK, predictions.labels, predictions.index))
        for name, exit_NK in rows.items()
    }


def details_of(predictions: Predictions) -> dict[str, float]:
    """The accuracy's 95 % interval, calibration error and Brier score."""
    logits_NK, labels_N = predictions.logits, predictions.labels
    low, high = accuracy_interval(int((logits_NK.argmax(dim=1) == labels_N).sum()), len(labels_N))
    return {
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": calibration_error(logits_NK, labels_N),
        "brier_score": brier_score(logits_NK, labels_N),
    }
