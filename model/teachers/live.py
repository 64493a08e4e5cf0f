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
        self._renormalise = Renormalisation(data_normalisation, normalisation, device)
        self.num_forwards = 0

    @property
    def num_queries(self) -> int:
        return self.num_forwards

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Output:
        self.num_forwards += len(batch.images)
        images = self._renormalise(batch.images)
        with autocast(self.dtype, self.device):
            output: Output = self.net(images)
        return output

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return iter(())

    def seconds_remaining(self, batch: Batch) -> float:
        return 0.0


class Renormalisation:
    """Turns images of one normalisation into those of another; where the two are equal, images stay as they are."""

    def __init__(self, source: Normalisation, target: Normalisation, device: torch.device) -> None:
        self.is_identity = source == target
        source_mean, source_std, target_mean, target_std = (
            torch.tensor(values, device=device).view(-1, 1, 1)
            for values in (source.mean, source.std, target.mean, target.std)
        )
        self.scale, self.shift = source_std / target_std, (source_mean - target_mean) / target_std

    def __call__(self, images: Tensor) -> Tensor:
        return images if self.is_identity else images * self.scale + self.shift
