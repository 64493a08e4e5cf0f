"""Running sums over an epoch, and the run's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..types import Batch
from .precision import widest_float
from .step import StepResult


class Meters:
    """Sums over the samples of an epoch, kept on the device: loss, every term, correct predictions, samples.

    Where the teacher predicts classes, too: how often both networks predict the same one, and the teacher the label.

    Args:
        terms: Names of the loss terms, and of their parts.
        reduce: Makes the sums over all processes of those of this one.
    """

    def __init__(
        self, terms: Sequence[str], device: torch.device, *, reduce: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> None:
        self.names = ["loss", *(f"loss_{name}" for name in terms), "accuracy"]
        # After these: agreement with the teacher, its correct predictions, samples that it predicted, all samples.
        self.sums = torch.zeros(len(self.names) + 4, dtype=widest_float(device), device=device)
        self._reduce = reduce

    @torch.no_grad()
    def add(self, result: StepResult, batch: Batch) -> None:
        size = len(batch.labels)
        self.sums[:-5].add_(torch.stack([result.loss, *result.terms.values()]), alpha=size)
        predicted_N = result.output.logits.argmax(dim=1)
        self.sums[-5] += (predicted_N == batch.labels).sum()
        if result.teacher is not None and result.teacher.logits.shape == result.output.logits.shape:
            teacher_N = result.teacher.logits.argmax(dim=1)
            self.sums[-4] += (predicted_N == teacher_N).sum()
            self.sums[-3] += (teacher_N == batch.labels).sum()
            self.sums[-2] += size
        self.sums[-1] += size

    def reduced(self) -> Tensor:
        """The sums over all processes."""
        return self._reduce(self.sums)

    def means(self) -> dict[str, float]:
        """Means over the samples of all processes; waits for the device."""
        *sums, agreement, teacher_correct, num_taught, samples = self.reduced().tolist()
        means = {name: value / max(samples, 1) for name, value in zip(self.names, sums, strict=True)}
        if num_taught:
            means |= {"agreement": agreement / num_taught, "teacher_accuracy": teacher_correct / num_taught}
        return means

    def reset(self) -> None:
        self.sums.zero_()


class Clock:
    """Seconds of a run: those before this process took over, and those since."""

    def __init__(self, before: float) -> None:
        self.before, self._start = before, time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def total(self) -> float:
        return self.before + self.elapsed()
