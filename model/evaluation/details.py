"""What evaluate.py says of a network beyond the metrics that a run writes after each epoch."""

from __future__ import annotations

from .calibration import brier_score, calibration_error
from .metrics import Predictions
from .significance import accuracy_interval


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
