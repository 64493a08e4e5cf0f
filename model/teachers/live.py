"""The live teacher: the network is run on every batch, compiled where that pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import first_sentence
from ..logs import log
from ..training.precision import autocast, to_device
from ..types import Batch, Normalisation, Output, Pipeline
from .compiled import CompiledNetwork


class LiveTeacher:
    """A network that is run on every batch.

    Args:
        net: The trained network; it is put into eval mode and its parameters are frozen.
        normalisation: The normalisation that it was trained with.
        data_normalisation: The normalisation of the batches' images; where it differs, images are renormalised.
        dtype: The number format of the forward pass.
        image_size: Height and width of its input, to which images are resized; by default they are not.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        normalisation: Normalisation,
        data_normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.net = to_device(net, device).eval().requires_grad_(False)
        self.image_size, self.normalisation = image_size, normalisation
        self.dtype, self.device = dtype, device
        self._renormalise = Renormalisation(data_normalisation, normalisation, device)
        self._forward: Callable[[Tensor], Output] = self.net
        self.num_forwards = 0

    def compile(self, batch_size: int) -> None:
        """Compile the network at its next call, for batches of this size; smaller ones are padded."""
        self._forward = CompiledNetwork(self.net, batch_size, self.device.type)

    def run_compiled(self, batch: Batch) -> bool:
        """Run the network once, so that it is compiled; where that fails, log it and leave it as it is from now on."""
        try:
            self(batch)
        except Exception as error:  # compilers fail in many ways, and none of them should end a run
            log.warning("the teacher cannot be compiled (%s): it runs uncompiled", first_sentence(error))
            self._forward = self.net
            return False
        return True

    @property
    def num_queries(self) -> int:
        return self.num_forwards

    @property
    def num_missing(self) -> int:
        return 0

    def __call__(self, batch: Batch) -> Output:
        return self._run(self._forward, batch)

    def run_uncompiled(self, batch: Batch) -> Output:
        """The same but for rounding: for a few images, which would not be worth a compilation."""
        return self._run(self.net, batch)

    @torch.no_grad()
    def _run(self, forward: Callable[[Tensor], Output], batch: Batch) -> Output:
        self.num_forwards += len(batch.images)
        images = self._renormalise(at_size(batch, self.image_size))
        with autocast(self.dtype, self.device):
            return forward(images)

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        return iter(())

    def seconds_remaining(self, batch: Batch) -> float:
        return 0.0


def at_size(batch: Batch, size: tuple[int, int] | None) -> Tensor:
    """A batch's images of this height and width: drawn from the originals where it has them, else resized."""
    if size is None or batch.images.shape[2:] == size:
        return batch.images
    if size[0] == size[1] and size[0] in batch.at_size:
        return batch.at_size[size[0]]
    return F.interpolate(batch.images, size, mode="bilinear", antialias=True)


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
