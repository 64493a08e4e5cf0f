"""The common part of both pipelines: the samples of each split and batch, and what is augmented after crop and flip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fingerprint import Fingerprint, SplitFingerprint, digest
from ..randomness import AUTO_AUGMENT, COLOUR, ERASE, FIRST_VIEW, ORDER, STRONG, permutation, random_bits
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions
from .erasing import cut_out, erase, random_rectangles
from .mixing import Mixing, Step
from .preprocess import normalise, on_device, scale_and_shift
from .sampler import BalancedSampler, Sample
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
        if (channels := len(normalisation.mean)) not in (1, 3):
            for key in ("strong_view", "auto_augment", "color_jitter"):
                if getattr(options, key):
                    raise ValueError(f"{key} is for images of 1 or 3 channels, these have {channels}")
        self.seed, self.device = seed, device
        self.num_images = len(train_labels)
        self.options, self.cutout, self.views_shown = options, options.cutout, 2 if options.strong_view else 1
        self.views_per_image = options.views_per_image
        self._mixing = Mixing(mixup=options.mixup, cutmix=options.cutmix, seed=seed) if options.mixing else None
        self._view_seed = seed if options.views_per_image is None else options.split_seed
        train, val = split_indices(train_labels, options, split_keys, groups=split_groups, is_val=is_val)
        self.indices: dict[Split, Indices] = {"train": train, "val": val, "test": np.arange(len(test_labels))}
        self._all_labels = (train_labels, test_labels)
        self._split_keys = [keys for keys in (split_keys, split_groups, is_val) if keys is not None]
        is_balanced = options.sampler == "balanced"
        self._sampler = BalancedSampler(train, train_labels[train], seed) if is_balanced else None
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

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        index, view, bounds = self._epoch_samples(epoch, batch_size)
        steps = [Step(epoch, number, *bound) for number, bound in enumerate(pairwise(bounds))][first_step:]
        if self._mixing is None:
            parts = [shard.slice_of(step.start, step.stop) for step in steps]
            yield from self._augmented_batches(index, view, parts)
            return
        pairs = [self._mixing.pairs(step, shard) for step in steps]
        batches = self._augmented_batches(index, view, [positions for positions, _ in pairs])
        for step, (_, partner), batch in zip(steps, pairs, batches, strict=True):
            yield self._mixing(batch, partner, step)

    @abstractmethod
    def _augmented_batches(
        self, index: Indices, view: Indices, parts: Sequence[slice] | Sequence[Indices]
    ) -> Iterator[Batch]:
        """A batch of each part of these views of training images."""

    @abstractmethod
    def _hash_images(self, split: Literal["train", "test"]) -> NDArray[np.uint64]:
        """A hash of the content of every image of the data set's training or test images."""

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(batch_bounds(self.size("train"), batch_size)) - 1

    def epoch_views(self, epoch: int) -> tuple[Indices, Indices]:
        index, repeat = self._sample(epoch)
        number = self._showing(epoch, repeat)
        if self.views_shown == 1:
            return index, self._weak_views(number, index)
        return np.tile(index, 2), np.concatenate([self._weak_views(number, index), self._strong_views(number, index)])

    def _epoch_samples(self, epoch: int, batch_size: int) -> tuple[Indices, Indices, list[int]]:
        """Index and view of all samples of an epoch, batch after batch, and the bounds of the batches."""
        index, repeat = self._sample(epoch)
        keys = (repeat * self.num_images + index).astype(np.uint64)
        order = permutation(self.seed, ORDER, epoch, index=np.arange(len(index)), keys=keys)
        index, number = index[order], self._showing(epoch, repeat[order])
        view, bounds = self._weak_views(number, index), batch_bounds(len(index), batch_size)
        if self.views_shown == 1:
            return index, view, bounds
        strong = self._strong_views(number, index)
        batches = [slice(start, stop) for start, stop in pairwise(bounds)]
        return (
            np.concatenate([part for batch in batches for part in (index[batch], index[batch])]),
            np.concatenate([part for batch in batches for part in (view[batch], strong[batch])]),
            [2 * bound for bound in bounds],
        )

    def _sample(self, epoch: int) -> Sample:
        """The images of an epoch, in no particular order."""
        if self._sampler is not None:
            return self._sampler.sample(epoch)
        index = self.indices["train"]
        return Sample(index, np.zeros_like(index))

    def _showing(self, epoch: int, repeat: Indices) -> Indices:
        """The number of an image's showing, by which its view is drawn: the epoch where an epoch shows it once."""
        return self._num_showings(epoch) + repeat

    def _num_showings(self, num_epochs: int) -> int:
        """The number of showings in some epochs, at most."""
        return num_epochs * (1 if self._sampler is None else self._sampler.most_repeats)

    @abstractmethod
    def _weak_views(self, number: Indices, index: Indices) -> Indices:
        """The weakly augmented views of these images in their showings of these numbers."""

    @abstractmethod
    def _strong_views(self, number: Indices, index: Indices) -> Indices:
        """The strongly augmented ones, with the option `strong_view`."""

    @abstractmethod
    def _is_strong(self, view: Indices) -> NDArray[np.bool_]:
        """Which of the views are strong."""

    def _shown_views(self, number: Indices, index: Indices) -> Indices:
        """Which of its `views_per_image` views an image shows; the showing's number without this option."""
        if self.views_per_image is None:
            return number
        first = random_bits(self.seed, FIRST_VIEW, index=index) % np.uint64(self.views_per_image)
        shown: Indices = (first.astype(np.int64) + number) % self.views_per_image
        return shown

    @cached_property
    def _augmentations(self) -> dict[str, Any]:
        """The options that define a view after crop and flip, where they are set."""
        options, strengths = self.options, self.options.color_jitter_strengths
        values = {
            "cutout": options.cutout,
            "auto_augment": options.auto_augment,
            "color_jitter": strengths if any(strengths) else None,
            "random_erasing": options.random_erasing,
        }
        return {name: value for name, value in values.items() if value}

    def _draw(self, *key: int, below: int, index: Indices, view: Indices) -> Indices:
        """A random number in [0, below) for each sample, f(seed of the views, key, index, view)."""
        bits = random_bits(self._view_seed, *key, index=view * self.num_images + index)
        drawn: Indices = (bits % np.uint64(below)).astype(np.int64)
        return drawn

    def _draw_uniform(self, *key: int, index: Indices, view: Indices) -> NDArray[np.float64]:
        """The same in [0, 1)."""
        return self._draw(*key, below=2**53, index=index, view=view) / 2**53

    def _training_images(
        self, pixels_NHWC: Tensor, index: Indices, view: Indices, centre_N: Indices, cutout: int
    ) -> Tensor:
        """The network's input from cropped uint8 pixels: changes of pixels, normalisation, blank rectangles.

        Args:
            centre_N: Centre of the cutout square, a pixel's number; replaced where the view is strong.
            cutout: Its side in pixels.
        """
        H, W = pixels_NHWC.shape[1:3]
        side_N, is_strong_N = np.full(len(index), cutout), self._is_strong(view)
        strong, weak = np.flatnonzero(is_strong_N), np.flatnonzero(~is_strong_N)
        if len(strong):
            from .auto_augment import RAND_AUGMENT, auto_augment

            draw = partial(self._draw, STRONG, index=index[strong], view=view[strong])
            rows = on_device(strong, self.device)
            choice_S = draw(OPERATIONS, below=RAND_AUGMENT.num_choices)
            pixels_NHWC[rows] = auto_augment(pixels_NHWC[rows], RAND_AUGMENT, choice_S)
            centre_N[strong] = draw(SQUARE_CENTRE, below=H * W)
            side_N[strong] = draw(SQUARE_SIDE, below=min(H, W) // 2 + 1)
        if len(weak) and self._augmentations.keys() & {"auto_augment", "color_jitter"}:
            rows = on_device(weak, self.device)
            pixels_NHWC[rows] = self._changed(pixels_NHWC[rows], index[weak], view[weak])
        images = self.normalise(pixels_NHWC)
        if side_N.any():
            cut_out(images, *(on_device(values, self.device) for values in (centre_N, side_N)))
        if self.options.random_erasing:
            self._erase_at_random(images, index, view, is_strong_N)
        return images

    def _changed(self, pixels_NHWC: Tensor, index: Indices, view: Indices) -> Tensor:
        """The pixels of weak views after automatic augmentation and colour jitter."""
        draw = partial(self._draw, index=index, view=view)
        if self.options.auto_augment:
            from .auto_augment import POLICIES, auto_augment

            policy = POLICIES[self.options.auto_augment]
            pixels_NHWC = auto_augment(pixels_NHWC, policy, draw(AUTO_AUGMENT, below=policy.num_choices))
        if strengths := self._augmentations.get("color_jitter"):
            from .color_jitter import ORDERS, color_jitter, draw_factors

            uniform = partial(self._draw_uniform, COLOUR, index=index, view=view)
            factors_N4 = draw_factors(strengths, uniform)
            pixels_NHWC = color_jitter(pixels_NHWC, factors_N4, draw(COLOUR, 4, below=len(ORDERS)))
        return pixels_NHWC

    def _erase_at_random(self, images: Tensor, index: Indices, view: Indices, is_strong_N: NDArray[np.bool_]) -> None:
        """Erase a rectangle of some of the images that are weak views, in place."""
        uniform = partial(self._draw_uniform, ERASE, index=index, view=view)
        is_erased_N = (uniform(0) < self.options.random_erasing) & ~is_strong_N
        top, left, height, width = random_rectangles(partial(uniform, 1), *images.shape[2:])
        values = (top, left, height * is_erased_N, width)
        erase(images, *(on_device(each, self.device) for each in values))

    def normalise(self, pixels_NHWC: Tensor) -> Tensor:
        return normalise(pixels_NHWC, self._scale_C, self._shift_C)
