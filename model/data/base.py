"""What both pipelines share: the samples of each split and each batch, how pixels become the input of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..randomness import ORDER, STRONG, permutation, random_bits
from ..types import Normalisation, Split, SplitOptions
from .split import Indices, batch_bounds, split_indices

CROP, OPERATIONS, MIDDLE, SIDE = range(4)  # what is drawn for a strong view


class BasePipeline(ABC):
    """Which samples each split has, on which device; see `model.types.Pipeline`.

    A pipeline says which views it has: `_weak_views`, `_strong_views` and `_are_strong`.
    """

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
        if options.strong_view and (channels := len(normalisation.mean)) not in (1, 3):
            raise ValueError(f"strong_view is for images of 1 or 3 channels, these have {channels}")
        self.seed, self.device = seed, device
        self.num_images = len(train_labels)
        self.cutout, self.views_shown = options.cutout, 2 if options.strong_view else 1
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

    def drawn_views(self, epoch: int) -> tuple[Indices, Indices]:
        index = self.indices["train"]
        if self.views_shown == 1:
            return index, self._weak_views(epoch, index)
        return np.tile(index, 2), np.concatenate([self._weak_views(epoch, index), self._strong_views(epoch, index)])

    def _training_rows(self, epoch: int, batch_size: int) -> tuple[Indices, Indices, list[int]]:
        """Index and view of all that an epoch shows, batch after batch, and where batches begin and end."""
        index = permutation(self.seed, ORDER, epoch, index=self.indices["train"])
        view, bounds = self._weak_views(epoch, index), batch_bounds(len(index), batch_size)
        if self.views_shown == 1:
            return index, view, bounds
        strong = self._strong_views(epoch, index)
        batches = [slice(start, stop) for start, stop in pairwise(bounds)]
        return (
            np.concatenate([part for batch in batches for part in (index[batch], index[batch])]),
            np.concatenate([part for batch in batches for part in (view[batch], strong[batch])]),
            [2 * bound for bound in bounds],
        )

    @abstractmethod
    def _weak_views(self, epoch: int, index: Indices) -> Indices:
        """The views in which an epoch shows the images."""

    @abstractmethod
    def _strong_views(self, epoch: int, index: Indices) -> Indices:
        """Those in which it shows them once more, where it does."""

    @abstractmethod
    def _are_strong(self, view: Indices) -> NDArray[np.bool_]:
        """Which views are strong."""

    def _draw(self, *what: int, below: int, index: Indices, view: Indices) -> Indices:
        """A number from 0 for each view, f(seed, view, index)."""
        bits = random_bits(self.seed, *what, index=view * self.num_images + index)
        drawn: Indices = (bits % np.uint64(below)).astype(np.int64)
        return drawn

    def _training_input(self, pixels_NHWC: Tensor, index: Indices, view: Indices, middle_N: Indices) -> Tensor:
        """Cropped pixels, uint8, to what a network is given: strengthened where the view is strong, and blanked.

        Args:
            middle_N: Where cutout's square is; of no meaning where a view is strong.
        """
        H, W = pixels_NHWC.shape[1:3]
        side_N = np.full(len(index), self.cutout)
        strong = np.flatnonzero(self._are_strong(view))
        if len(strong):
            from .randaugment import NUM_CHOICES, rand_augment

            draw = partial(self._draw, STRONG, index=index[strong], view=view[strong])
            here = torch.from_numpy(strong).to(self.device)
            pixels_NHWC[here] = rand_augment(pixels_NHWC[here], draw(OPERATIONS, below=NUM_CHOICES))
            middle_N[strong] = draw(MIDDLE, below=H * W)
            side_N[strong] = draw(SIDE, below=min(H, W) // 2 + 1)
        images = self.normalised(pixels_NHWC)
        if not side_N.any():
            return images
        return cut_out(images, *(torch.from_numpy(each).to(self.device) for each in (middle_N, side_N)))

    def normalised(self, pixels_NHWC: Tensor) -> Tensor:
        """Pixels of any type to (N, C, H, W) float32; the memory stays channels-last, as convolutions like it."""
        N, H, W, C = pixels_NHWC.shape
        rows_NHR = pixels_NHWC.float().view(N, H, W * C)  # whole rows, as rows of C values are too short to be quick
        rows_NHR.mul_(self._scale_C.repeat(W)).add_(self._shift_C.repeat(W))
        return rows_NHR.view(N, H, W, C).permute(0, 3, 1, 2)


def cut_out(images_NCHW: Tensor, middle_N: Tensor, side_N: Tensor) -> Tensor:
    """The images with a square set to 0, the mean of all pixels; what lies beyond the border is not blanked.

    Sec. 3.2 of DeVries and Taylor: the middle may be any pixel, so squares at the border are smaller.

    Args:
        middle_N: Number of the pixel below and right of the square's middle, row by row.
        side_N: Height and width of the square in pixels; 0 for none.
    """
    H, W = images_NCHW.shape[2:]
    rows_NH = _covered(middle_N // W, side_N, H)
    columns_NW = _covered(middle_N % W, side_N, W)
    return images_NCHW.masked_fill((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def _covered(middle_N: Tensor, side_N: Tensor, length: int) -> Tensor:
    side_N1 = side_N[:, None]
    start_N1 = middle_N[:, None] - side_N1 // 2
    place_L = torch.arange(length, device=middle_N.device)
    return (place_L >= start_N1) & (place_L < start_N1 + side_N1)
