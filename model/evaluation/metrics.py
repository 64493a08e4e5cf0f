"""Accuracy and loss of a network on a split, as counts over samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.engine.precision import autocast
from model.types import Batch, Output


@torch.no_grad()
def predictions(
    net: nn.Module, batches: Iterable[Batch], *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) in float32 and labels (N,) of all batches, in eval mode; the network's mode is put back."""
    was_training = net.training
    net.eval()
    logits, labels = [], []
    for batch in batches:
        with autocast(dtype, device):
            output: Output = net(batch.images)
        logits.append(output.logits.float())
        labels.append(batch.labels)
    net.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def metrics_of(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Accuracy and top-5 accuracy in [0, 1], mean cross-entropy, number of samples.

    With fewer than six classes top-5 says nothing and is left out.
    """
    count = len(labels_N)
    correct_N = logits_NK.argmax(dim=1) == labels_N
    loss = F.cross_entropy(logits_NK.double(), labels_N, reduction="sum").item() / count
    metrics = {"accuracy": int(correct_N.sum()) / count, "loss": loss, "num_samples": count}
    if logits_NK.shape[1] > 5:
        top_N5 = logits_NK.topk(5, dim=1).indices
        metrics["top5_accuracy"] = int((top_N5 == labels_N[:, None]).any(dim=1).sum()) / count
    return metrics


def confusion(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Counts (K, K): row the true class, column the predicted one."""
    num_classes = logits_NK.shape[1]
    pairs_N = labels_N * num_classes + logits_NK.argmax(dim=1)
    return torch.bincount(pairs_N, minlength=num_classes**2).view(num_classes, num_classes)
