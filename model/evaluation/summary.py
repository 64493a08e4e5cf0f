"""The summary that evaluate.py prints: overall metrics, and a table with a row per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..markdown import markdown_table


def per_class(confusion_KK: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class: number of images, accuracy (recall), precision, and the most frequent wrong prediction.

    A value for which there are no samples is None.
    """
    rows = []
    for k, name in enumerate(class_names):
        correct = int(confusion_KK[k, k])
        images, predicted = int(confusion_KK[k].sum()), int(confusion_KK[:, k].sum())
        mistakes_K = confusion_KK[k].clone()
        mistakes_K[k] = 0
        most_frequent = int(mistakes_K.argmax())
        rows.append(
            {
                "class": name,
                "images": images,
                "accuracy": correct / images if images else None,
                "precision": correct / predicted if predicted else None,
                "taken_for": class_names[most_frequent] if mistakes_K[most_frequent] else None,
                "times": int(mistakes_K[most_frequent]),
            }
        )
    return rows


def markdown(
    title: str,
    metrics: dict[str, float],
    exits: dict[str, dict[str, float]],
    cost: str,
    rows: list[dict[str, Any]],
) -> str:
    """The summary as Markdown: metrics, the network's cost, a table of early exits, and one of classes.

    Args:
        exits: Name of an exit -> its metrics.
        rows: As `per_class` returns them.
    """
    interval = f"95 %: {100 * metrics['accuracy_low']:.2f} to {100 * metrics['accuracy_high']:.2f}"
    overall = [f"accuracy {100 * metrics['accuracy']:.2f} % ({interval})"]
    if "top5_accuracy" in metrics:
        overall.append(f"top-5 {100 * metrics['top5_accuracy']:.2f} %")
    overall += [f"loss {metrics['loss']:.4f}", f"{metrics['num_samples']:,} images"]
    table = markdown_table(
        ("class", "images", "accuracy %", "precision %", "most often mistaken for"),
        [
            (
                row["class"],
                str(row["images"]),
                _percent(row["accuracy"]),
                _percent(row["precision"]),
                f"{row['taken_for']} ({row['times']})" if row["taken_for"] else "-",
            )
            for row in rows
        ],
        align=("left", "right", "right", "right", "left"),
    )
    further = [
        f"macro recall {100 * metrics['macro_recall']:.2f} %",
        f"macro F1 {100 * metrics['macro_f1']:.2f} %",
        f"calibration error {100 * metrics['calibration_error']:.2f} %",
        f"Brier score {metrics['brier_score']:.4f}",
    ]
    lines = [overall, further, _fidelity(metrics), [cost], [metrics_table("exit", exits)] if exits else [], [table]]
    return "\n\n".join([f"# {title}", *(", ".join(parts) for parts in lines if parts)]) + "\n"


def metrics_table(header: str, rows: Mapping[str, dict[str, float]], more: Mapping[str, Sequence[str]] = {}) -> str:
    """A row a network with its metrics.

    Args:
        header: Of the column of names.
        rows: Name -> metrics.
        more: Header -> a text for each row, for further columns.
    """
    columns = {
        "accuracy %": [f"{100 * each['accuracy']:.2f}" for each in rows.values()],
        "95 %": [f"{100 * each['accuracy_low']:.2f} to {100 * each['accuracy_high']:.2f}" for each in rows.values()],
        "top-5 %": [_percent(each.get("top5_accuracy")) for each in rows.values()],
        "macro F1 %": [f"{100 * each['macro_f1']:.2f}" for each in rows.values()],
        "loss": [f"{each['loss']:.4f}" for each in rows.values()],
        "calibration error %": [f"{100 * each['calibration_error']:.2f}" for each in rows.values()],
        "Brier score": [f"{each['brier_score']:.4f}" for each in rows.values()],
        **more,
    }
    body = [[name, *cells] for name, cells in zip(rows, zip(*columns.values(), strict=True), strict=True)]
    return markdown_table((header, *columns), body, align=("left", *["right"] * len(columns)))


def _fidelity(metrics: dict[str, float]) -> list[str]:
    """What is said of the teacher; nothing without one."""
    if "teacher_accuracy" not in metrics:
        return []
    parts = [
        f"teacher {100 * metrics['teacher_accuracy']:.2f} %",
        f"the student agrees with it on {100 * metrics['agreement']:.2f} %",
        f"KL divergence {metrics['divergence_at_1']:.4f} at temperature 1 and {metrics['divergence_at_4']:.4f} at 4",
    ]
    if "cka" in metrics:
        parts.append(f"CKA of the embeddings {metrics['cka']:.3f}")
    if "wrong_alike" in metrics:
        parts.append(f"of what both get wrong, {100 * metrics['wrong_alike']:.2f} % alike")
    return parts


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
