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
        normalisation: The normalisation that the network was trained with.
        data_normalisation: The normalisation of the batches' images; where it differs, images are renormalised.
        dtype: The number format of the forward pass.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        normalisation: Normalisation,
        data_normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.net = to_device(net, device).eval().requires_grad_(False)
        self.normalisation, self.dtype, self.device = normalisation, dtype, device
        self._scale_and_shift = _renormalisation(data_normalisation, normalisation, device)
        self.num_forwards = 0

    @property
    def num_queries(self) -> int:
        return self.num_forwards

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        self.num_forwards += len(batch.images)
        images = batch.images
        if self._scale_and_shift is not None:
            scale, shift = self._scale_and_shift
            images = images * scale + shift
        with autocast(self.dtype, self.device):
            output: Output = self.net(images)
        return output

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return iter(())

    def seconds_remaining(self, batch: Batch) -> float:
        return 0.0


def _renormalisation(
    source: Normalisation, target: Normalisation, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Scale and shift, (C, 1, 1) each, that turn one normalisation into another; None where they are equal."""
    if source == target:
        return None
    source_mean, source_std, target_mean, target_std = (
        torch.tensor(values, device=device).view(-1, 1, 1)
        for values in (source.mean, source.std, target.mean, target.std)
    )
    return source_std / target_std, (source_mean - target_mean) / target_std
