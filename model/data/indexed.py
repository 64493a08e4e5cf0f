"""What both pipelines share: the samples of each split, and how pixels become the input of a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.split import Indices, batch_bounds, split_indices
from model.types import Normalisation, Split, SplitOptions


class IndexedPipeline:
    """Which samples each split has, on which device; see `model.types.Pipeline`."""

    def __init__(
        self,
        train_labels: NDArray[np.integer],
        num_test: int,
        options: SplitOptions,
        normalisation: Normalisation,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.seed, self.device = seed, device
        self.num_images = len(train_labels)
        train, val = split_indices(train_labels, options)
        self.indices: dict[Split, Indices] = {"train": train, "val": val, "test": np.arange(num_test)}
        mean, std = (torch.tensor(values, device=device) for values in (normalisation.mean, normalisation.std))
        self._scale_C, self._shift_C = 1 / (255 * std), -mean / std

    def size(self, split: Split) -> int:
        return len(self.indices[split])

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(batch_bounds(self.size("train"), batch_size)) - 1

    def normalised(self, pixels_NHWC: Tensor) -> Tensor:
        """Pixels of any type to (N, C, H, W) float32; the memory stays channels-last, as convolutions like it."""
        N, H, W, C = pixels_NHWC.shape
        rows_NHR = pixels_NHWC.float().view(N, H, W * C)  # whole rows, as rows of C values are too short to be quick
        rows_NHR.mul_(self._scale_C.repeat(W)).add_(self._shift_C.repeat(W))
        return rows_NHR.view(N, H, W, C).permute(0, 3, 1, 2)
