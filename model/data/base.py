"""The common part of both pipelines: the samples of each split and batch, strong augmentation and cutout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fingerprint import Fingerprint, SplitFingerprint, digest
from ..randomness import FIRST_VIEW, ORDER, STRONG, permutation, random_bits
from ..types import Normalisation, Split, SplitOptions
from .preprocess import normalise, scale_and_shift
from .split import Indices, batch_bounds, split_indices

CROP, OPERATIONS, SQUARE_CENTRE, SQUARE_SIDE = range(4)  # the random numbers of a strong view


class BasePipeline(ABC):
    """The samples of each split, and their order in an epoch; see `model.types.Pipeline`.

    A pipeline numbers its views itself: `_weak_views`, `_strong_views` and `_is_strong`.

    Args:
        split_keys: A key of each training image, (M,), by which val is drawn; by default the image's index.
        split_groups: A number for each training image, (M,): those of equal numbers are drawn together.
        is_val: Which training images are val, (M,), where that is given.
    """

    skipped: tuple[str, ...] = ()
    reads_ahead: bool = False
    in_memory: bool = True

    def __init__(
        self,
        train_labels: NDArray[np.integer],
        test_labels: NDArray[np.integer],
        options: SplitOptions,
        normalisation: Normalisation,
        *,
        seed: int,
        device: torch.device,
        split_keys: NDArray[np.uint64] | None = None,
        split_groups: NDArray[np.uint64] | None = None,
        is_val: NDArray[np.bool_] | None = None,
    ) -> None:
        if options.strong_view and (channels := len(normalisation.mean)) not in (1, 3):
            raise ValueError(f"strong_view is for images of 1 or 3 channels, these have {channels}")
        self.seed, self.device = seed, device
        self.num_images = len(train_labels)
        self.cutout, self.views_shown = options.cutout, 2 if options.strong_view else 1
        self.views_per_image = options.views_per_image
        self._view_seed = seed if options.views_per_image is None else options.split_seed
        train, val = split_indices(train_labels, options, split_keys, groups=split_groups, is_val=is_val)
        self.indices: dict[Split, Indices] = {"train": train, "val": val, "test": np.arange(len(test_labels))}
        self._all_labels = (train_labels, test_labels)
        self._split_keys = [keys for keys in (split_keys, split_groups, is_val) if keys is not None]
        self._labels_M = np.full(self.num_images, -1)
        self._labels_M[train] = train_labels[train]
        self._scale_C, self._shift_C = scale_and_shift(normalisation, device)

    def size(self, split: Split) -> int:
        return len(self.indices[split])

    def training_labels(self) -> NDArray[np.integer]:
        return self._labels_M

    @cached_property
    def _hashes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """A hash of the content of every training and of every test image."""
        return self._hash_images("train"), self._hash_images("test")

    def image_hashes(self, split: Split) -> NDArray[np.uint64]:
        return self._hashes[split == "test"][self.indices[split]]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        keys = b"".join(keys.tobytes() for keys in self._split_keys)
        (train, test), labels = self._hashes, [each.astype(np.int64) for each in self._all_labels]
        return Fingerprint(
            train=SplitFingerprint(len(train), digest(train.tobytes(), keys), digest(labels[0].tobytes())),
            test=SplitFingerprint(len(test), digest(test.tobytes()), digest(labels[1].tobytes())),
        )

    @abstractmethod
    def _hash_images(self, split: Literal["train", "test"]) -> NDArray[np.uint64]:
        """A hash of the content of every image of the data set's training or test images."""

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(batch_bounds(self.size("train"), batch_size)) - 1

    def epoch_views(self, epoch: int) -> tuple[Indices, Indices]:
        index = self.indices["train"]
        if self.views_shown == 1:
            return index, self._weak_views(epoch, index)
        return np.tile(index, 2), np.concatenate([self._weak_views(epoch, index), self._strong_views(epoch, index)])

    def _epoch_samples(self, epoch: int, batch_size: int) -> tuple[Indices, Indices, list[int]]:
        """Index and view of all samples of an epoch, batch after batch, and the bounds of the batches."""
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
        """The weakly augmented views of these images in an epoch."""

    @abstractmethod
    def _strong_views(self, epoch: int, index: Indices) -> Indices:
        """The strongly augmented ones, with the option `strong_view`."""

    @abstractmethod
    def _is_strong(self, view: Indices) -> NDArray[np.bool_]:
        """Which of the views are strong."""

    def _shown_views(self, epoch: int, index: Indices) -> Indices:
        """Which of its `views_per_image` views an image shows in an epoch; the epoch's number without this option."""
        if self.views_per_image is None:
            return np.full(len(index), epoch)
        first = random_bits(self.seed, FIRST_VIEW, index=index) % np.uint64(self.views_per_image)
        shown: Indices = (first.astype(np.int64) + epoch) % self.views_per_image
        return shown

    def _draw(self, *key: int, below: int, index: Indices, view: Indices) -> Indices:
        """A random number in [0, below) for each sample, f(seed of the views, key, index, view)."""
        bits = random_bits(self._view_seed, *key, index=view * self.num_images + index)
        drawn: Indices = (bits % np.uint64(below)).astype(np.int64)
        return drawn

    def _training_images(self, pixels_NHWC: Tensor, index: Indices, view: Indices, centre_N: Indices) -> Tensor:
        """The network's input from cropped uint8 pixels: RandAugment of strong views, normalisation, cutout.

        Args:
            centre_N: Centre of the cutout square, a pixel's number; replaced where the view is strong.
        """
        H, W = pixels_NHWC.shape[1:3]
        side_N = np.full(len(index), self.cutout)
        strong = np.flatnonzero(self._is_strong(view))
        if len(strong):
            from .randaugment import NUM_CHOICES, rand_augment

            draw = partial(self._draw, STRONG, index=index[strong], view=view[strong])
            rows = on_device(strong, self.device)
            pixels_NHWC[rows] = rand_augment(pixels_NHWC[rows], draw(OPERATIONS, below=NUM_CHOICES))
            centre_N[strong] = draw(SQUARE_CENTRE, below=H * W)
            side_N[strong] = draw(SQUARE_SIDE, below=min(H, W) // 2 + 1)
        images = self.normalise(pixels_NHWC)
        if not side_N.any():
            return images
        return cut_out(images, *(on_device(values, self.device) for values in (centre_N, side_N)))

    def normalise(self, pixels_NHWC: Tensor) -> Tensor:
        return normalise(pixels_NHWC, self._scale_C, self._shift_C)


def on_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array's content on a device: a GPU copies it while the host goes on."""
    # CUDA's driver keeps a copy of the source until it is done; MPS would read memory that may be freed by then.
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=device.type == "cuda")


def cut_out(images_NCHW: Tensor, centre_N: Tensor, side_N: Tensor) -> Tensor:
    """Set a square of each image to 0, the data set's mean, in place; a square may extend over the border.

    Sec. 3.2 of DeVries and Taylor: any pixel may be the centre, so squares at the border are smaller.

    Args:
        centre_N: The pixel below and right of the square's centre, numbered row by row.
        side_N: Height and width of the square in pixels; 0 for none.
    """
    H, W = images_NCHW.shape[2:]
    rows_NH = _span_mask(centre_N // W, side_N, H)
    columns_NW = _span_mask(centre_N % W, side_N, W)
    return images_NCHW.masked_fill_((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def _span_mask(centre_N: Tensor, side_N: Tensor, length: int) -> Tensor:
    side_N1 = side_N[:, None]
    start_N1 = centre_N[:, None] - side_N1 // 2
    position_L = torch.arange(length, device=centre_N.device)
    return (position_L >= start_N1) & (position_L < start_N1 + side_N1)
