"""The in-memory pipeline: uint8 images on the device, augmented a batch at a time.

A sample's view is a number: which crop offset, whether flipped, and where cutout's square is. It is a function of
(seed, epoch, index), and the augmented image is a function of (index, view), so whatever is known of a view can be kept
and used again. Beyond these numbers are those of strong views, one for each epoch; what they show is drawn from
(seed, view, index).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..randomness import FLIP, STRONG, VIEW, random_bits
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import CROP, BasePipeline
from .split import Indices


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A whole data set: images (N, H, W, C) uint8, labels (N,) integers."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.integer]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crop out of the zero-padded image, and horizontal flip.

    Views are numbered ((row offset) * (2 * pad + 1) + column offset) * flips + flipped.
    """

    pad: int = 0
    flip: bool = False

    @property
    def offsets(self) -> int:
        return 2 * self.pad + 1

    @property
    def flips(self) -> int:
        return 2 if self.flip else 1

    @property
    def num_views(self) -> int:
        return self.offsets**2 * self.flips

    @property
    def identity(self) -> int:
        """The view that leaves the image as it is."""
        return (self.pad * self.offsets + self.pad) * self.flips


@dataclass(frozen=True, kw_only=True)
class MemorySource:
    """A data set small enough to live in memory.

    Args:
        load: Reads the arrays, fetching and verifying what is missing.
        ready: Whether `load` needs nothing from the network.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    augmentation: Augmentation
    load: Callable[[], Arrays]
    ready: Callable[[], bool] = lambda: True

    def is_ready(self) -> bool:
        return self.ready()

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> MemoryPipeline:
        augmentation = self.augmentation if options.augment else Augmentation()
        return MemoryPipeline(self.load(), options, self.normalisation, augmentation, seed=seed, device=device)


class MemoryPipeline(BasePipeline):
    """Batches of a data set in memory; see `model.types.Pipeline`."""

    def __init__(
        self,
        arrays: Arrays,
        options: SplitOptions,
        normalisation: Normalisation,
        augmentation: Augmentation,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        labels = np.asarray(arrays.train_labels)
        super().__init__(labels, len(arrays.test_labels), options, normalisation, seed=seed, device=device)
        if options.alternating_flip and not augmentation.flip:
            raise ValueError("alternating_flip is for data sets that are flipped: it must be false here")
        self.augmentation, self.alternating_flip = augmentation, options.alternating_flip
        height, width = arrays.train_images.shape[1:3]
        self._num_middles = height * width if self.cutout else 1
        training = (_tensor(arrays.train_images, device), _tensor(arrays.train_labels, device).long())
        testing = (_tensor(arrays.test_images, device), _tensor(arrays.test_labels, device).long())
        self._images = {"train": training[0], "val": training[0], "test": testing[0]}
        self._labels = {"train": training[1], "val": training[1], "test": testing[1]}

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        index, view, bounds = self._training_rows(epoch, batch_size)
        for start, stop in list(pairwise(bounds))[first_step:]:
            here = shard.between(start, stop)
            yield self.training_batch(index[here], view[here])

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        indices = _tensor(shard.of(self.indices[split]), self.device)
        for start in range(0, len(indices), batch_size):
            index_N = indices[start : start + batch_size]
            images = self.normalised(self._images[split].index_select(0, index_N))
            identity_N = torch.full_like(index_N, self.augmentation.identity)
            yield Batch(images, self._labels[split][index_N], index_N, identity_N)

    def views(self, num_epochs: int) -> Views:
        meaning: dict[str, Any] = asdict(self.augmentation)
        if self.cutout:
            meaning["cutout"] = self.cutout
        if self.views_shown == 2:
            meaning["strong_views_of_seed"] = self.seed
        return Views(
            num_images=self.num_images,
            per_image=self._num_views + (num_epochs if self.views_shown == 2 else 0),
            meaning=meaning,
            unbounded=self.cutout > 0 or self.views_shown > 1,  # or finite, but so many that runs share few
        )

    def training_batch(self, index: Indices, view: Indices) -> Batch:
        index_N, view_N = _tensor(index, self.device), _tensor(view, self.device)
        shown, strong = view, self._are_strong(view)
        if strong.any():
            shown = np.where(strong, self._draw(STRONG, CROP, below=self._num_views, index=index, view=view), view)
        images_NHWC = self._images["train"].index_select(0, index_N)
        pixels_NHWC = augmented(images_NHWC, _tensor(shown, self.device), self.augmentation)
        images = self._training_input(pixels_NHWC, index, view, shown // self.augmentation.num_views)
        return Batch(images, self._labels["train"][index_N], index_N, view_N)

    def content_digest(self) -> str:
        images = self._images["train"].cpu().numpy()
        total = hashlib.sha256(str(images.shape).encode())
        total.update(images.data)
        return total.hexdigest()

    @property
    def _num_views(self) -> int:
        """Of crop, flip and cutout: strong views have the numbers from here on."""
        return self.augmentation.num_views * self._num_middles

    def _weak_views(self, epoch: int, index: Indices) -> Indices:
        drawn = random_bits(self.seed, VIEW, epoch, index=index) % np.uint64(self._num_views)
        views: Indices = drawn.astype(np.int64)
        if not self.alternating_flip:
            return views
        flipped = (random_bits(self.seed, FLIP, index=index).astype(np.int64) + epoch) % 2
        return views - views % self.augmentation.flips + flipped

    def _strong_views(self, epoch: int, index: Indices) -> Indices:
        return np.full(len(index), self._num_views + epoch)

    def _are_strong(self, view: Indices) -> NDArray[np.bool_]:
        return np.asarray(view >= self._num_views)


def augmented(images_NHWC: Tensor, view_N: Tensor, augmentation: Augmentation) -> Tensor:
    """The images as their views show them: (N, H, W, C) of any type to the same."""
    if augmentation.num_views == 1:
        return images_NHWC
    N, H, W, C = images_NHWC.shape
    pad, offsets = augmentation.pad, augmentation.offsets
    flipped_N, offset_N = view_N % augmentation.flips == 1, view_N % augmentation.num_views // augmentation.flips
    padded = F.pad(images_NHWC, (0, 0, pad, pad, pad, pad)).contiguous()
    image, row, column, value = padded.stride()
    # All crops of all images, side by side in the same memory: the chosen ones are copied row by row.
    windows = padded.as_strided((N, offsets, offsets, H, W * C), (image, row, column, row, value))
    sample_N = torch.arange(N, device=images_NHWC.device)
    crops_NHWC = windows[sample_N, offset_N // offsets, offset_N % offsets].view(N, H, W, C)
    return torch.where(flipped_N.view(N, 1, 1, 1), crops_NHWC.flip(2), crops_NHWC)


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array) if not array.flags.c_contiguous else array).to(device)
