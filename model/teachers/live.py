"""The live teacher: the network is run on every batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..training.precision import autocast, to_device
from ..types import Batch, Normalisation, Output, Pipeline


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
        self.net = to_device(net, device).eval().requires_grad_(False)
        self.trained_on, self.dtype, self.device = trained_on, dtype, device
        self._mend = _between(fed_with, trained_on, device)
        self.num_forwards = 0

    @property
    def num_queries(self) -> int:
        return self.num_forwards

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        self.num_forwards += len(batch.images)
        images = batch.images
        if self._mend is not None:
            scale, shift = self._mend
            images = images * scale + shift
        with autocast(self.dtype, self.device):
            output: Output = self.net(images)
        return output

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return iter(())

    def seconds_remaining(self, batch: Batch) -> float:
        return 0.0


def _between(given: Normalisation, wanted: Normalisation, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, (C, 1, 1) each, that turn one normalisation into another; None where they are equal."""
    if given == wanted:
        return None
    mean_given, std_given, mean_wanted, std_wanted = (
        torch.tensor(values, device=device).view(-1, 1, 1)
        for values in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return std_given / std_wanted, (mean_given - mean_wanted) / std_wanted
