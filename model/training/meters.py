"""Running sums over an epoch, and the run's clock."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ..types import Batch, Output
from .distributed import SINGLE_PROCESS, World


class Meters:
    """Sums over the samples of an epoch, kept on the device: loss, every term, correct answers, samples.

    Each process has those of its samples.
    """

    def __init__(self, terms: list[str], device: torch.device, world: World = SINGLE_PROCESS) -> None:
        self.world = world
        self.names = ["loss", *(f"loss_{name}" for name in terms), "accuracy"]
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, terms: dict[str, Tensor], output: Output, batch: Batch) -> None:
        size = len(batch.labels)
        self.sums[:-2].add_(torch.stack([loss, *terms.values()]), alpha=size)
        self.sums[-2] += (output.logits.argmax(dim=1) == batch.labels).sum()
        self.sums[-1] += size

    def of_all(self) -> Tensor:
        return self.world.all_reduce_sum(self.sums)

    def means(self) -> dict[str, float]:
        """Per-sample means over all processes; waits for the device."""
        *sums, samples = self.of_all().tolist()
        return {name: value / max(samples, 1) for name, value in zip(self.names, sums, strict=True)}

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
