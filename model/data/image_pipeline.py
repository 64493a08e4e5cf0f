"""The pipeline of compressed images, read while training, whatever form lists them: a folder, a table, ...

What a user may want to know is in docs/images.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..randomness import CUTOUT
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import BasePipeline
from .image_listing import ImageListing, OnError, read_listing
from .image_loader import ImageLoader, default_workers
from .pixels import Photo, naming_image, open_image
from .preprocess import PIL_MODES, Preprocess, as_pil, on_device
from .smaller_images import SmallerImages, smaller_copy
from .split import Indices

if TYPE_CHECKING:
    from ..types import ImageInput
    from .image_reader import BatchReader

CENTRE_CROP = -1  # the view without augmentation
IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class ImageForm(Protocol):
    """A form in which users have images: its layout has been checked, its images are listed when they are needed."""

    def list_images(self) -> ImageListing: ...


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A data set of compressed images.

    Args:
        index_folder: Where it is remembered which images can be read.
        image_size: Height and width of the network's input.
        num_workers: Processes that read images; None for as many as fit the machine.
        draft: Whether large JPEG files are decoded at a smaller size.
        cache_size: The shorter side of copies of larger images, which are read instead of them; None for no copies.
    """

    form: ImageForm
    class_names: tuple[str, ...]
    image_size: int
    num_workers: int | None
    draft: bool
    cache_size: int | None
    on_error: OnError
    index_folder: Path
    normalisation: Normalisation = IMAGENET_NORMALISATION

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be positive, got {self.image_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {self.num_workers}")

        least = round(self.image_size * 256 / 224)  # the shorter side of which the unaugmented view is cut out
        if self.cache_size is not None and self.cache_size < least:
            raise ValueError(f"cache_size must be at least {least} for this image_size, got {self.cache_size}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(image_shape=self.image_shape, normalisation=self.normalisation, fit=self.center_crop)

    @property
    def smaller_images(self) -> SmallerImages | None:
        """Where the copies of large images are; None without them."""
        if self.cache_size is None:
            return None
        name = f"copies_{self.cache_size}{'' if self.draft else '_without_draft'}"
        return SmallerImages(self.index_folder / name, self.cache_size, draft=self.draft)

    def center_crop(self, image: ImageInput, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """The pixels (H, W, C) of an image's unaugmented view."""
        if isinstance(image, np.ndarray):
            image = as_pil(image, image_shape[0])
        if isinstance(image, Image.Image):  # which stays as large as the caller has it
            return self._center_crop(image, image_shape, draft=False)
        with naming_image(image), open_image(image) as opened:
            return self._center_crop(opened, image_shape, draft=self.draft)

    def _center_crop(self, image: Image.Image, image_shape: tuple[int, int, int], *, draft: bool) -> NDArray[np.uint8]:
        from .image_reader import resized_center_crop

        if self.cache_size is not None and (copy := smaller_copy(image, self.cache_size, draft=draft)) is not None:
            image = Image.open(io.BytesIO(copy))
        photo = Photo(image, PIL_MODES[image_shape[0]], draft=draft)
        return np.asarray(resized_center_crop(photo, image_shape[1]))

    def is_ready(self) -> bool:
        return True

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> ImagePipeline:
        return ImagePipeline(self, options, seed=seed, device=device)


class ImagePipeline(BasePipeline):
    """Batches of compressed images, read by worker processes; see `model.types.Pipeline`.

    The view of a training image is the epoch's number. With the run's seed and the index it gives the seed of crop and
    flip, so the image is a function of (index, view), whatever the number of workers. With strong views, an epoch has
    two numbers, of which the odd one is the strong view's. With `views_per_image`, the views of all runs are those that
    a run with the split's seed shows in its first epochs.
    """

    in_memory = False

    def __init__(self, source: ImageSource, options: SplitOptions, *, seed: int, device: torch.device) -> None:
        from .image_reader import GAP, BatchReader

        if options.alternating_flip:
            raise ValueError("alternating_flip is for data sets in memory: it must be false here")
        self.augment, self.image_size = options.augment, source.image_size
        self.num_workers = default_workers(device) if source.num_workers is None else source.num_workers
        self.reads_ahead = self.num_workers > 0
        images = read_listing(
            source.form.list_images(), source.class_names, index_folder=source.index_folder, on_error=source.on_error
        )
        train, test, self.skipped = images
        self._content = {"train": train.content, "test": test.content}
        # Whether a view may be of an image that is decoded at half its size: that leaves GAP times the network's input.
        self._is_drafted = source.draft and train.sides.max() >= 2 * GAP * source.image_size
        super().__init__(
            train.labels,
            test.labels,
            options,
            source.normalisation,
            seed=seed,
            device=device,
            split_keys=train.keys,
            split_groups=train.groups,
            is_val=train.is_val if train.is_val.any() else None,
        )
        # The bounds of random crops, where they are given.
        self._crop = {
            key: value for key in ("crop_scale", "crop_ratio") if (value := getattr(options, key)) is not None
        }
        self.cache_size = source.cache_size
        training, testing = (
            BatchReader(
                part.images,
                source.image_size,
                self._view_seed,
                draft=source.draft,
                smaller=source.smaller_images,
                content=part.content,
                **self._crop,
            )
            for part in (train, test)
        )
        train_labels, test_labels = (torch.from_numpy(part.labels).to(device) for part in (train, test))
        readers: dict[Split, BatchReader] = {"train": training, "val": training, "test": testing}
        self._loader = ImageLoader(readers, num_workers=self.num_workers, device=device)
        self._labels = {"train": train_labels, "val": train_labels, "test": test_labels}

    def draw_at(self, sizes: tuple[int, ...]) -> None:
        for reader in self._loader.readers.values():
            reader.other_sizes = sizes

    def _augmented_batches(
        self, index: Indices, view: Indices, parts: Sequence[slice] | Sequence[Indices]
    ) -> Iterator[Batch]:
        return self._batches("train", index, view, parts)

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        indices = shard.of(self.indices[split])
        parts = [slice(start, start + batch_size) for start in range(0, len(indices), batch_size)]
        return self._batches(split, indices, np.full(len(indices), CENTRE_CROP), parts)

    def views(self, num_epochs: int) -> Views:
        config: dict[str, Any] = {"size": self.image_size, "augment": self.augment}
        if self.augment:
            config["seed"] = self._view_seed
        config |= self._augmentations | self._crop
        if self.views_shown == 2:
            config["strong_views"] = True
        if self._is_drafted:
            config["draft"] = True
        if self.cache_size is not None:
            config["cache_size"] = self.cache_size
        unbounded = self.augment and self.views_per_image is None
        num_views = self.views_per_image or self._num_showings(num_epochs)
        per_image = num_views * self.views_shown if self.augment else 1
        return Views(
            num_images=self.num_images,
            per_image=per_image,
            config=config,
            unbounded=unbounded,
            can_grow=self.augment,
        )

    def augmented_batch(self, index: Indices, view: Indices) -> Batch:
        if not self.augment:
            view = np.full(len(index), CENTRE_CROP)
        return next(self._batches("train", index, view, [slice(None)], num_workers=0))

    def _hash_images(self, split: Literal["train", "test"]) -> NDArray[np.uint64]:
        return self._content[split]

    def _weak_views(self, number: Indices, index: Indices) -> Indices:
        return self._shown_views(number, index) * self.views_shown if self.augment else np.full(len(index), CENTRE_CROP)

    def _strong_views(self, number: Indices, index: Indices) -> Indices:
        return self._weak_views(number, index) + 1

    def _is_strong(self, view: Indices) -> NDArray[np.bool_]:
        return np.asarray(view % self.views_shown == 1)

    def _batches(
        self,
        split: Split,
        index: Indices,
        view: Indices,
        parts: Sequence[slice] | Sequence[Indices],
        num_workers: int | None = None,
    ) -> Iterator[Batch]:
        batches = [(index[part], view[part]) for part in parts]
        pixels = self._loader.read(split, batches, num_workers=num_workers)
        sides = (self.image_size, *self._loader.readers[split].other_sizes)
        for (indices, views), pixels_NP in zip(batches, pixels, strict=True):
            images = {}
            parts_NP = torch.split(pixels_NP, [3 * side**2 for side in sides], dim=1)
            for side, part_NP in zip(sides, parts_NP, strict=True):
                pixels_NHWC = part_NP.reshape(len(indices), side, side, 3)
                images[side] = self._images(pixels_NHWC, indices, views)
            index_N, view_N = on_device(indices, self.device), on_device(views, self.device)
            labels = self._labels[split][index_N]
            yield Batch(images.pop(self.image_size), labels, index_N, view_N, at_size=images)

    def _images(self, pixels_NHWC: Tensor, index: Indices, view: Indices) -> Tensor:
        """The network's input from cropped pixels of any size; random squares are scaled with it."""
        if CENTRE_CROP in view:
            return self.normalise(pixels_NHWC)
        own, size = self.image_size, pixels_NHWC.shape[2]
        centre_N = self._draw(CUTOUT, below=own**2, index=index, view=view)
        row_N, column_N = centre_N // own * size // own, centre_N % own * size // own
        centre_N = row_N * size + column_N
        return self._training_images(pixels_NHWC, index, view, centre_N, round(self.cutout * size / own))
