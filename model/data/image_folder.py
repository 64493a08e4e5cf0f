"""The user's own images in class sub-folders, read while training: torchvision's ImageFolder layout.

    PATH/train/CLASS/*.jpg
    PATH/test/CLASS/*.jpg      or PATH/val/CLASS/*.jpg without a folder `test`, as ImageNet has it

Classes are the sub-folders of `train`, in the order of their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import OptionError, UserError
from ..fingerprint import content_hash
from ..randomness import CUTOUT
from ..registry import DATASETS
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import BasePipeline
from .image_loader import default_workers, read_batches
from .paths import find_data
from .preprocess import Preprocess, as_pil
from .split import Indices

if TYPE_CHECKING:
    from ..types import ImageInput
    from .image_reader import BatchReader

CENTRE_CROP = -1  # the view without augmentation
IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@DATASETS.register
def folder(data_dir: Path, *, path: str, image_size: int = 224, num_workers: int | None = None) -> FolderSource:
    """Your own images in class sub-folders: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg.

    Without a folder `test`, the folder `val` is the test set, as with ImageNet: a run's validation images are always
    held out of `train`. Training images are randomly cropped, resized and flipped; others are resized and cropped at
    the centre.

    Args:
        data_dir: The folder of the data sets.
        path: The folder, relative to the data folder or to the repository's root, or absolute.
        image_size: Height and width of the network's input.
        num_workers: Number of processes that read images, by default one per CPU, eight at most; 0 reads them in the
            training process.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    root = find_data(path, data_dir)
    train, test = root / "train", root / ("test" if (root / "test").is_dir() else "val")
    class_names = _subfolders(train)
    if unknown := sorted(set(_subfolders(test)) - set(class_names)):
        raise OptionError("path", f"{test} has a class that {train} does not have: {unknown[0]}")
    return FolderSource(
        train=train,
        test=test,
        num_workers=num_workers,
        class_names=class_names,
        image_shape=(3, image_size, image_size),
        normalisation=IMAGENET_NORMALISATION,
    )


def _subfolders(parent: Path) -> tuple[str, ...]:
    if not parent.is_dir():
        raise OptionError("path", f"no folder {parent}; expected train/CLASS/ and test/CLASS/ or val/CLASS/")
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise OptionError("path", f"{parent} has no class sub-folders")
    return tuple(names)


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder of images whose layout has been checked; its files are listed when it is opened."""

    train: Path
    test: Path
    num_workers: int | None
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(image_shape=self.image_shape, normalisation=self.normalisation, fit=center_crop)

    def is_ready(self) -> bool:
        return True

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> FolderPipeline:
        return FolderPipeline(self, options, seed=seed, device=device)


def center_crop(image: ImageInput, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The pixels (H, W, C) of an image's unaugmented view."""
    from .image_reader import resized_center_crop

    num_channels, size, _ = image_shape
    return np.asarray(resized_center_crop(as_pil(image, num_channels), size))


class FolderPipeline(BasePipeline):
    """Batches of image files, read by worker processes; see `model.types.Pipeline`.

    The view of a training image is the epoch's number. With the run's seed and the index it gives the seed of crop and
    flip, so the image is a function of (index, view), whatever the number of workers. With strong views, an epoch has
    two numbers, of which the odd one is the strong view's.
    """

    def __init__(self, source: FolderSource, options: SplitOptions, *, seed: int, device: torch.device) -> None:
        from .image_reader import BatchReader, list_images

        if options.alternating_flip:
            raise ValueError("alternating_flip is for data sets in memory: it must be false for folder")
        self.augment = options.augment
        self.num_workers = default_workers(device) if source.num_workers is None else source.num_workers
        self.reads_ahead = self.num_workers > 0
        train_files, train_labels = list_images(source.train, source.class_names)
        test_files, test_labels = list_images(source.test, source.class_names)
        if missing := sorted(set(range(len(source.class_names))) - set(train_labels.tolist())):
            raise UserError(f"{source.train / source.class_names[missing[0]]} has no images")
        if not test_files:
            raise UserError(f"{source.test} has no images")
        super().__init__(
            train_labels,
            test_labels,
            options,
            source.normalisation,
            seed=seed,
            device=device,
            split_keys=_name_hashes(train_files, source.train),
        )
        size = source.image_shape[1]
        self._files = {"train": train_files, "test": test_files}
        training = (BatchReader(train_files, size, seed), torch.from_numpy(train_labels).to(device))
        testing = (BatchReader(test_files, size, seed), torch.from_numpy(test_labels).to(device))
        self._readers: dict[Split, BatchReader] = {"train": training[0], "val": training[0], "test": testing[0]}
        self._labels = {"train": training[1], "val": training[1], "test": testing[1]}

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        index, view, bounds = self._epoch_samples(epoch, batch_size)
        parts = [shard.slice_of(start, stop) for start, stop in pairwise(bounds)]
        return self._batches("train", index, view, parts[first_step:])

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        indices = shard.of(self.indices[split])
        parts = [slice(start, start + batch_size) for start in range(0, len(indices), batch_size)]
        return self._batches(split, indices, np.full(len(indices), CENTRE_CROP), parts)

    def views(self, num_epochs: int) -> Views:
        config: dict[str, Any] = {"size": self._readers["train"].size, "augment": self.augment}
        if self.augment:
            config["seed"] = self.seed
        if self.cutout:
            config["cutout"] = self.cutout
        if self.views_shown == 2:
            config["strong_views"] = True
        per_image = num_epochs * self.views_shown if self.augment else 1
        return Views(num_images=self.num_images, per_image=per_image, config=config, unbounded=self.augment)

    def augmented_batch(self, index: Indices, view: Indices) -> Batch:
        if not self.augment:
            view = np.full(len(index), CENTRE_CROP)
        return next(self._batches("train", index, view, [slice(None)], num_workers=0))

    def _hash_images(self, split: Literal["train", "test"]) -> NDArray[np.uint64]:
        files = self._files[split]
        return np.fromiter((content_hash(Path(file).read_bytes()) for file in files), np.uint64, len(files))

    def _weak_views(self, epoch: int, index: Indices) -> Indices:
        return np.full(len(index), epoch * self.views_shown if self.augment else CENTRE_CROP)

    def _strong_views(self, epoch: int, index: Indices) -> Indices:
        return self._weak_views(epoch, index) + 1

    def _is_strong(self, view: Indices) -> NDArray[np.bool_]:
        return np.asarray(view % self.views_shown == 1)

    def _batches(
        self, split: Split, index: Indices, view: Indices, parts: list[slice], num_workers: int | None = None
    ) -> Iterator[Batch]:
        batches = [(index[part], view[part]) for part in parts]
        workers = self.num_workers if num_workers is None else num_workers
        pixels = read_batches(self._readers[split], batches, num_workers=workers, device=self.device)
        for (indices, views), pixels_NHWC in zip(batches, pixels, strict=True):
            if CENTRE_CROP in views:
                images = self.normalise(pixels_NHWC)
            else:
                num_pixels = pixels_NHWC.shape[1] * pixels_NHWC.shape[2]
                centres = self._draw(CUTOUT, below=num_pixels, index=indices, view=views)
                images = self._training_images(pixels_NHWC, indices, views, centres)
            index_N, view_N = torch.from_numpy(indices).to(self.device), torch.from_numpy(views).to(self.device)
            yield Batch(images, self._labels[split][index_N], index_N, view_N)


def _name_hashes(files: list[str], root: Path) -> NDArray[np.uint64]:
    """A hash of the path of every file below a folder."""
    names = (os.fsencode(Path(file).relative_to(root)) for file in files)
    return np.fromiter(map(content_hash, names), np.uint64, len(files))
