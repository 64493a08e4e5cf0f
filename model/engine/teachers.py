"""Teachers: whatever teaches answers `teacher(batch) -> Output`, in eval mode, without gradient, never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from model.engine.means import Mean, mean_of_probabilities
from model.engine.precision import autocast, placed
from model.types import Batch, Normalisation, Output, Pipeline


class Teacher(Protocol):
    """What the trainer asks."""

    @property
    def num_asked(self) -> int:
        """Images that it was asked about so far."""

    @property
    def num_run(self) -> int:
        """Images that a network was run on for that; of several networks the sum."""

    def __call__(self, batch: Batch) -> Output: ...

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:
        """Do ahead of an epoch what can be done; gives the share that is done, in [0, 1], now and then."""

    def seconds_to_come(self, batch: Batch) -> float:
        """About how much longer a run takes than its calls on a batch that has been asked about before."""


class LiveTeacher:
    """A network that is run on every batch.

    Args:
        net: The trained network; it is put into eval mode and its parameters are frozen.
        trained_on: The normalisation that the network was trained with.
        fed_with: The normalisation of the images that it will be given; where it differs, images are mended.
        dtype: The number format of its arithmetic.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        trained_on: Normalisation,
        fed_with: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.net = placed(net, device).eval().requires_grad_(False)
        self.trained_on, self.dtype, self.device = trained_on, dtype, device
        self._mend = _between(fed_with, trained_on, device)
        self.num_run = 0

    @property
    def num_asked(self) -> int:
        return self.num_run

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        self.num_run += len(batch.images)
        images = batch.images
        if self._mend is not None:
            scale, shift = self._mend
            images = images * scale + shift
        with autocast(self.dtype, self.device):
            output: Output = self.net(images)
        return output

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:  # noqa: ARG002
        return iter(())

    def seconds_to_come(self, batch: Batch) -> float:  # noqa: ARG002
        return 0.0


class EnsembleTeacher:
    """Several teachers that speak as one.

    Args:
        members: The teachers.
        mean: What makes one answer of their logits.
    """

    def __init__(self, members: Sequence[Teacher], mean: Mean = mean_of_probabilities) -> None:
        self.members, self.mean = members, mean

    @property
    def num_asked(self) -> int:
        return sum(member.num_asked for member in self.members)

    @property
    def num_run(self) -> int:
        return sum(member.num_run for member in self.members)

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:
        for number, member in enumerate(self.members):
            for share in member.prepare(data, epoch):
                yield (number + share) / len(self.members)

    def seconds_to_come(self, batch: Batch) -> float:
        return sum(member.seconds_to_come(batch) for member in self.members)

    def __call__(self, batch: Batch) -> Output:
        outputs = [member(batch) for member in self.members]
        logits_NK = self.mean([output.logits.float() for output in outputs])
        return Output(logits=logits_NK, embedding=torch.cat([output.embedding for output in outputs], dim=1))


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in order of the names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _between(given: Normalisation, wanted: Normalisation, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, (C, 1, 1) each, that turn one normalisation into another; None where they are equal."""
    if given == wanted:
        return None
    mean_given, std_given, mean_wanted, std_wanted = (
        torch.tensor(values, device=device).view(-1, 1, 1)
        for values in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return std_given / std_wanted, (mean_given - mean_wanted) / std_wanted
