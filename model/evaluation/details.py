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
    """The accuracy's 95 % interval, its mean over classes, macro F1, calibration error and Brier score.

    Classes without images have no part in the means over classes.
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    logits_NK, labels_N = predictions.logits, predictions.labels
    predicted_N, num_classes = logits_NK.argmax(dim=1), logits_NK.shape[1]
    low, high = accuracy_interval(int((predicted_N == labels_N).sum()), len(labels_N))
    macro_accuracy, macro_f1 = (
        float(metric(predicted_N, labels_N, num_classes=num_classes, average="macro"))
        for metric in (multiclass_accuracy, multiclass_f1_score)
    )
    return {
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_accuracy": macro_accuracy,
        "macro_f1": macro_f1,
        "calibration_error": calibration_error(logits_NK, labels_N),
        "brier_score": brier_score(logits_NK, labels_N),
    }
