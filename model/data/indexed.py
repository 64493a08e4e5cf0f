"""What both pipelines share: the samples of each split, how pixels become the input of a network, cutout."""

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
        self.cutout = options.cutout
        train, val = split_indices(train_labels, options)
        self.indices: dict[Split, Indices] = {"train": train, "val": val, "test": np.arange(num_test)}
        self._labels_M = np.full(self.num_images, -1)
        self._labels_M[train] = train_labels[train]
        mean, std = (torch.tensor(values, device=device) for values in (normalisation.mean, normalisation.std))
        self._scale_C, self._shift_C = 1 / (255 * std), -mean / std

    def size(self, split: Split) -> int:
        return len(self.indices[split])

    def training_labels(self) -> NDArray[np.integer]:
        return self._labels_M

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(batch_bounds(self.size("train"), batch_size)) - 1

    def normalised(self, pixels_NHWC: Tensor) -> Tensor:
        """Pixels of any type to (N, C, H, W) float32; the memory stays channels-last, as convolutions like it."""
        N, H, W, C = pixels_NHWC.shape
        rows_NHR = pixels_NHWC.float().view(N, H, W * C)  # whole rows, as rows of C values are too short to be quick
        rows_NHR.mul_(self._scale_C.repeat(W)).add_(self._shift_C.repeat(W))
        return rows_NHR.view(N, H, W, C).permute(0, 3, 1, 2)


def blanked(images_NCHW: Tensor, centre_N: Tensor, side: int) -> Tensor:
    """The images with a square set to 0, the mean of all pixels; what lies beyond the border is not blanked.

    Sec. 3.2 of DeVries and Taylor: the centre may be any pixel, so squares at the border are smaller.

    Args:
        centre_N: Number of the pixel below and right of the square's middle, row by row.
        side: Height and width of the square in pixels.
    """
    H, W = images_NCHW.shape[2:]
    rows_NH = _covered(centre_N // W, side, H)
    columns_NW = _covered(centre_N % W, side, W)
    return images_NCHW.masked_fill((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def _covered(centre_N: Tensor, side: int, length: int) -> Tensor:
    start_N1 = centre_N[:, None] - side // 2
    place_L = torch.arange(length, device=centre_N.device)
    return (place_L >= start_N1) & (place_L < start_N1 + side)
