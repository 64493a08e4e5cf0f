"""The in-memory pipeline: uint8 images on the device, augmented a batch at a time.

The view of a sample is a number that encodes the crop offset, the flip and the centre of the cutout square. It is a
function of (seed, epoch, index), and the augmented image is a function of (index, view), so teacher outputs can be
cached by view. Above these numbers are the strong views, one per epoch; their augmentations are drawn from
(seed, view, index).

With `auto_augment`, `color_jitter` or `random_erasing`, there are too many views to be numbered by what they are: their
number is the epoch's instead, weak and strong ones in turn, and all their augmentations are drawn from
(seed, view, index). With `views_per_image` likewise, from the split's seed and a number below `views_per_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..fingerprint import content_hash
from ..randomness import FLIP, STRONG, VIEW, random_bits
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import CROP, BasePipeline
from .preprocess import Preprocess, on_device, resize
from .split import Indices


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """All images and labels of a data set: images (N, H, W, C) uint8, labels (N,) integers."""

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
        """The view without crop and flip."""
        return (self.pad * self.offsets + self.pad) * self.flips

    def with_options(self, options: SplitOptions) -> Augmentation:
        """The same, or none where the options ask for that.

        Raises:
            ValueError: They are about crops of another kind.
        """
        for key in ("crop_scale", "crop_ratio"):
            if getattr(options, key) is not None:
                raise ValueError(f"{key} is for image files: images in memory are padded and shifted")
        return self if options.augment else Augmentation()


@dataclass(frozen=True, kw_only=True)
class MemorySource:
    """A data set that fits into memory.

    Args:
        load: Reads the arrays; what is missing is downloaded and verified.
        ready: Whether `load` works without a download.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    augmentation: Augmentation
    load: Callable[[], Arrays]
    ready: Callable[[], bool] = lambda: True

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(image_shape=self.image_shape, normalisation=self.normalisation, fit=resize)

    def is_ready(self) -> bool:
        return self.ready()

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> MemoryPipeline:
        augmentation = self.augmentation.with_options(options)
        arrays = self.load()
        for labels in (arrays.train_labels, arrays.test_labels):
            if len(labels) and (largest := int(labels.max())) >= (num_classes := len(self.class_names)):
                raise ValueError(f"a label is {largest}, and {num_classes} classes count from 0 to {num_classes - 1}")
        return MemoryPipeline(arrays, options, self.normalisation, augmentation, seed=seed, device=device)


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
        labels, test_labels = np.asarray(arrays.train_labels), np.asarray(arrays.test_labels)
        super().__init__(labels, test_labels, options, normalisation, seed=seed, device=device)
        if options.alternating_flip and not augmentation.flip:
            raise ValueError("alternating_flip needs an augmentation that flips: it must be false here")
        self.augmentation, self.alternating_flip = augmentation, options.alternating_flip
        # Whether views are numbered, and drawn by their number; else a view's number says what it is.
        self._is_drawn = bool(self.views_per_image is not None or self._augmentations.keys() - {"cutout"})
        height, width = arrays.train_images.shape[1:3]
        self._num_centres = height * width if self.cutout else 1
        training = (on_device(arrays.train_images, device), on_device(arrays.train_labels, device).long())
        testing = (on_device(arrays.test_images, device), on_device(arrays.test_labels, device).long())
        self._host_images = {"train": arrays.train_images, "test": arrays.test_images}
        self._images = {"train": training[0], "val": training[0], "test": testing[0]}
        self._labels = {"train": training[1], "val": training[1], "test": testing[1]}

    def _augmented_batches(
        self, index: Indices, view: Indices, parts: Sequence[slice] | Sequence[Indices]
    ) -> Iterator[Batch]:
        return (self.augmented_batch(index[part], view[part]) for part in parts)

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        indices = on_device(shard.of(self.indices[split]), self.device)
        for start in range(0, len(indices), batch_size):
            index_N = indices[start : start + batch_size]
            images = self.normalise(self._images[split].index_select(0, index_N))
            identity_N = torch.full_like(index_N, self.augmentation.identity)
            yield Batch(images, self._labels[split][index_N], index_N, identity_N)

    def draw_at(self, sizes: tuple[int, ...]) -> None:
        """Nothing for images in memory, which a teacher resizes itself."""

    def views(self, num_epochs: int) -> Views:
        config: dict[str, Any] = asdict(self.augmentation) | self._augmentations
        if self._is_drawn:
            is_fixed = self.views_per_image is not None
            config["drawn_by_split_seed" if is_fixed else "drawn_by_seed"] = self._view_seed
            config |= {"alternating_flip": self.alternating_flip, "strong_views": self.views_shown == 2}
            per_image = (self.views_per_image or self._num_showings(num_epochs)) * self.views_shown
            return Views(
                num_images=self.num_images, per_image=per_image, config=config, unbounded=not is_fixed, can_grow=True
            )
        if self.views_shown == 2:
            config["strong_views_of_seed"] = self.seed
        return Views(
            num_images=self.num_images,
            per_image=self._num_views + (self._num_showings(num_epochs) if self.views_shown == 2 else 0),
            config=config,
            unbounded=self.cutout > 0 or self.views_shown > 1,  # with cutout: finite, but too many to be shared
            can_grow=self.views_shown > 1,
        )

    def augmented_batch(self, index: Indices, view: Indices) -> Batch:
        index_N, view_N = on_device(index, self.device), on_device(view, self.device)
        weak_view, strong = view, self._is_strong(view)  # crop and flip of a strong view are those of a weak one
        if self._is_drawn:
            drawn = self._draw(VIEW, below=self._num_views, index=index, view=view)
            weak_view = self._with_alternating_flip(drawn, index, view // self.views_shown)
        if strong.any():
            drawn = self._draw(STRONG, CROP, below=self._num_views, index=index, view=view)
            weak_view = np.where(strong, drawn, weak_view)
        images_NHWC = self._images["train"].index_select(0, index_N)
        pixels_NHWC = crop_and_flip(images_NHWC, on_device(weak_view, self.device), self.augmentation)
        centres = weak_view // self.augmentation.num_views
        images = self._training_images(pixels_NHWC, index, view, centres, self.cutout)
        return Batch(images, self._labels["train"][index_N], index_N, view_N)

    def _hash_images(self, split: Literal["train", "test"]) -> NDArray[np.uint64]:
        images_NHWC = self._host_images[split]
        images_NP = np.ascontiguousarray(images_NHWC).reshape(len(images_NHWC), -1)
        return np.fromiter((content_hash(image_P.data) for image_P in images_NP), np.uint64, len(images_NP))

    @property
    def _num_views(self) -> int:
        """Number of weak views: crop, flip and cutout. Strong views are numbered from here on."""
        return self.augmentation.num_views * self._num_centres

    def _weak_views(self, number: Indices, index: Indices) -> Indices:
        if self._is_drawn:
            return self._shown_views(number, index) * self.views_shown
        drawn = random_bits(self.seed, VIEW, number, index=index) % np.uint64(self._num_views)
        return self._with_alternating_flip(drawn.astype(np.int64), index, number)

    def _with_alternating_flip(self, views: Indices, index: Indices, number: Indices) -> Indices:
        """The same views, flipped by their number among those of their image, where the option asks for that."""
        if not self.alternating_flip:
            return views
        flipped = (random_bits(self._view_seed, FLIP, index=index).astype(np.int64) + number) % 2
        return views - views % self.augmentation.flips + flipped

    def _strong_views(self, number: Indices, index: Indices) -> Indices:
        if self._is_drawn:
            return self._weak_views(number, index) + 1
        return self._num_views + number

    def _is_strong(self, view: Indices) -> NDArray[np.bool_]:
        if self._is_drawn:
            return np.asarray(view % self.views_shown == 1)
        return np.asarray(view >= self._num_views)


def crop_and_flip(images_NHWC: Tensor, view_N: Tensor, augmentation: Augmentation) -> Tensor:
    """The images cropped and flipped as their views define, in shape and type as before."""
    if augmentation.num_views == 1:
        return images_NHWC
    N, H, W, C = images_NHWC.shape
    pad, offsets = augmentation.pad, augmentation.offsets
    flipped_N, offset_N = view_N % augmentation.flips == 1, view_N % augmentation.num_views // augmentation.flips
    padded = F.pad(images_NHWC, (0, 0, pad, pad, pad, pad)).contiguous()
    image, row, column, value = padded.stride()
    # Overlapping windows on the padded images, one per offset: the selected crops are copied row by row.
    windows = padded.as_strided((N, offsets, offsets, H, W * C), (image, row, column, row, value))
    sample_N = torch.arange(N, device=images_NHWC.device)
    crops_NHWC = windows[sample_N, offset_N // offsets, offset_N % offsets].view(N, H, W, C)
    return torch.where(flipped_N.view(N, 1, 1, 1), crops_NHWC.flip(2), crops_NHWC)
