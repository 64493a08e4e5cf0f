"""Accuracy and loss of a network on a split, from counts and sums over all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..teachers.ensemble import mean_of_probabilities
from ..training.precision import autocast, widest_float
from ..types import Batch, Output


class Predictions(NamedTuple):
    """A network's outputs for all images of a split."""

    logits: Tensor  # (N, K) float32
    labels: Tensor  # (N,)
    index: Tensor  # type: ignore[assignment]  # (N,) the samples' indices in the data set
    exits: tuple[Tensor, ...] = ()  # (N, K) float32, logits of early exits, shallow to deep

    def gather(self, all_gather: Callable[[Tensor], Tensor]) -> Predictions:
        """The predictions of all processes; `all_gather` turns one process's rows into those of all."""
        logits, labels, index = (all_gather(rows) for rows in (self.logits, self.labels, self.index))
        return Predictions(logits, labels, index, tuple(all_gather(rows) for rows in self.exits))


@torch.no_grad()
def predict(net: nn.Module, batches: Iterable[Batch], *, dtype: torch.dtype, device: torch.device) -> Predictions:
    """Run a network on all batches in eval mode; its mode is restored."""
    was_training = net.training
    net.eval()
    parts = []
    for batch in batches:
        with autocast(dtype, device):
            output: Output = net(batch.images)
        exits = tuple(exit_output.logits.float() for exit_output in output.exits)
        parts.append(Predictions(output.logits.float(), batch.labels, batch.index, exits))
    net.train(was_training)
    logits, labels, index, exits_of_parts = zip(*parts, strict=True)
    exits = tuple(torch.cat(parts_of_exit) for parts_of_exit in zip(*exits_of_parts, strict=True))
    return Predictions(torch.cat(logits), torch.cat(labels), torch.cat(index), exits)


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """Accuracy and top-5 accuracy in [0, 1], mean cross-entropy, number of samples, and means over classes.

    `macro_recall` is the mean over classes of their accuracies, `macro_f1` that of their F1 scores, 2 TP / (2 TP + FP +
    FN): every class counts alike, however many images it has, and classes without images have no part. With fewer than
    six classes there is no top-5 accuracy. A network with early exits also has the accuracy of each exit
    (`exit_1_accuracy`, ...) and that of the mean probabilities of all exits (`ensemble_accuracy`).
    """
    logits_NK, labels_N, count = predictions.logits, predictions.labels, len(predictions.labels)
    dtype = widest_float(logits_NK.device)
    loss = F.cross_entropy(logits_NK.to(dtype), labels_N, reduction="sum").item() / count
    metrics = {"accuracy": accuracy(logits_NK, labels_N), "loss": loss, "num_samples": count}
    if logits_NK.shape[1] > 5:
        top_N5 = logits_NK.topk(5, dim=1).indices
        metrics["top5_accuracy"] = int((top_N5 == labels_N[:, None]).any(dim=1).sum()) / count
    metrics |= macro_metrics(confusion_matrix(logits_NK, labels_N))
    for number, exit_NK in enumerate(predictions.exits, start=1):
        metrics[f"exit_{number}_accuracy"] = accuracy(exit_NK, labels_N)
    if predictions.exits:
        all_exits = [exit_NK.to(dtype) for exit_NK in (*predictions.exits, logits_NK)]
        metrics["ensemble_accuracy"] = accuracy(mean_of_probabilities(all_exits), labels_N)
    return metrics


def accuracy(scores_NK: Tensor, labels_N: Tensor) -> float:
    """The fraction of samples whose largest score is that of their label."""
    return int((scores_NK.argmax(dim=1) == labels_N).sum()) / len(labels_N)


def macro_metrics(confusion_KK: Tensor) -> dict[str, float]:
    """Recall and F1 score, the means over all classes that have images."""
    counts_KK = confusion_KK.cpu().numpy()  # in float64, which not every device has
    has_images_K = counts_KK.any(axis=1)
    correct_K, images_K, predicted_K = counts_KK.diagonal(), counts_KK.sum(axis=1), counts_KK.sum(axis=0)
    recall_K = correct_K[has_images_K] / images_K[has_images_K]
    f1_K = 2 * correct_K[has_images_K] / (images_K + predicted_K)[has_images_K]
    return {"macro_recall": float(recall_K.mean()), "macro_f1": float(f1_K.mean())}


def confusion_matrix(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    num_classes = logits_NK.shape[1]
    pairs_N = labels_N * num_classes + logits_NK.argmax(dim=1)
    return torch.bincount(pairs_N, minlength=num_classes**2).view(num_classes, num_classes)
