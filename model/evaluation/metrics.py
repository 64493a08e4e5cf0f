"""Accuracy and loss of a network on a split, as counts over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..teachers.ensemble import mean_of_probabilities
from ..training.precision import autocast
from ..types import Batch, Output


class Predictions(NamedTuple):
    """What a network said of all images of a split."""

    logits: Tensor  # (N, K) float32
    labels: Tensor  # (N,)
    index: Tensor  # type: ignore[assignment]  # (N,) the samples' places in the data set
    exits: tuple[Tensor, ...] = ()  # (N, K) float32, early exits, shallow to deep

    def gather(self, gather: Callable[[Tensor], Tensor]) -> Predictions:
        """What all processes have said, where `gather` makes of a process's rows those of all."""
        logits, labels, index = (gather(rows) for rows in (self.logits, self.labels, self.index))
        return Predictions(logits, labels, index, tuple(gather(rows) for rows in self.exits))


@torch.no_grad()
def predictions(net: nn.Module, batches: Iterable[Batch], *, dtype: torch.dtype, device: torch.device) -> Predictions:
    """Run a network over all batches in eval mode; its mode is put back."""
    was_training = net.training
    net.eval()
    parts = []
    for batch in batches:
        with autocast(dtype, device):
            output: Output = net(batch.images)
        exits = tuple(early.logits.float() for early in output.exits)
        parts.append(Predictions(output.logits.float(), batch.labels, batch.index, exits))
    net.train(was_training)
    logits, labels, index, exits_of_parts = zip(*parts, strict=True)
    exits = tuple(torch.cat(said) for said in zip(*exits_of_parts, strict=True))
    return Predictions(torch.cat(logits), torch.cat(labels), torch.cat(index), exits)


def metrics_of(said: Predictions) -> dict[str, float]:
    """Accuracy and top-5 accuracy in [0, 1], mean cross-entropy, number of samples.

    With fewer than six classes top-5 says nothing and is left out. A network with early exits also has the accuracy of
    each (`exit_1_accuracy`, ...) and of all exits together, by the mean of their probabilities (`ensemble_accuracy`).
    """
    logits_NK, labels_N, count = said.logits, said.labels, len(said.labels)
    loss = F.cross_entropy(logits_NK.double(), labels_N, reduction="sum").item() / count
    metrics = {"accuracy": accuracy(logits_NK, labels_N), "loss": loss, "num_samples": count}
    if logits_NK.shape[1] > 5:
        top_N5 = logits_NK.topk(5, dim=1).indices
        metrics["top5_accuracy"] = int((top_N5 == labels_N[:, None]).any(dim=1).sum()) / count
    for number, exit_NK in enumerate(said.exits, start=1):
        metrics[f"exit_{number}_accuracy"] = accuracy(exit_NK, labels_N)
    if said.exits:
        every_exit = [each_NK.double() for each_NK in (*said.exits, logits_NK)]
        metrics["ensemble_accuracy"] = accuracy(mean_of_probabilities(every_exit), labels_N)
    return metrics


def accuracy(scores_NK: Tensor, labels_N: Tensor) -> float:
    """Share of the samples whose largest score is the label's."""
    return int((scores_NK.argmax(dim=1) == labels_N).sum()) / len(labels_N)


def confusion(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Counts (K, K): row the true class, column the predicted one."""
    num_classes = logits_NK.shape[1]
    pairs_N = labels_N * num_classes + logits_NK.argmax(dim=1)
    return torch.bincount(pairs_N, minlength=num_classes**2).view(num_classes, num_classes)
