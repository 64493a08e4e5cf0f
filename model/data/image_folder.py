"""The user's own images in class sub-folders, read while training: torchvision's ImageFolder layout.

    PATH/train/CLASS/*.jpg
    PATH/test/CLASS/*.jpg      or PATH/val/CLASS/*.jpg where there is no `test`, as with ImageNet

Classes are the sub-folders of `train`, in the order of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ..errors import OptionError, UserError
from ..randomness import CUTOUT
from ..registry import DATASETS
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import BasePipeline
from .paths import find_data
from .split import Indices

if TYPE_CHECKING:
    from .image_reader import BatchReader

CENTRE = -1  # the view that is not augmented
IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@DATASETS.register
def folder(data_dir: Path, *, path: str, image_size: int = 224, num_workers: int = 4) -> FolderSource:
    """Your own images in class sub-folders: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg.

    Where there is no `test` but `val`, that is the test set, as with ImageNet: the `val` of a run is always held out of
    `train`. Training images are cropped at random, resized and flipped; others are cropped at the centre.

    Args:
        data_dir: Where data sets lie.
        path: The folder, relative to the data folder or to the repository's root, or absolute.
        image_size: Height and width that a network sees.
        num_workers: Processes that read images; 0 reads them in the process that trains.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    root = find_data(path, data_dir)
    train, test = root / "train", root / ("test" if (root / "test").is_dir() else "val")
    class_names = _subfolders(train)
    if unknown := sorted(set(_subfolders(test)) - set(class_names)):
        raise OptionError("path", f"{test} has a class that {train} has not: {unknown[0]}")
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
    """A folder of images whose layout has been checked; files are listed when it is opened."""

    train: Path
    test: Path
    num_workers: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation

    def is_ready(self) -> bool:
        return True

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> FolderPipeline:
        return FolderPipeline(self, options, seed=seed, device=device)


class FolderPipeline(BasePipeline):
    """Batches of image files, read by worker processes; see `model.types.Pipeline`.

    A training view is the number of its epoch, which with the run's seed and the index gives the seed of crop and flip:
    so the image is a function of (index, view) alone, whatever the number of workers. With strong views, an epoch has
    two numbers, of which the odd one is the strong view's.
    """

    def __init__(self, source: FolderSource, options: SplitOptions, *, seed: int, device: torch.device) -> None:
        from .image_reader import BatchReader, list_images

        if options.alternating_flip:
            raise ValueError("alternating_flip is for data sets in memory: it must be false for folder")
        self.augment, self.num_workers = options.augment, source.num_workers
        train_files, train_labels = list_images(source.train, source.class_names)
        test_files, test_labels = list_images(source.test, source.class_names)
        if missing := sorted(set(range(len(source.class_names))) - set(train_labels.tolist())):
            raise UserError(f"{source.train / source.class_names[missing[0]]} has no images")
        if not test_files:
            raise UserError(f"{source.test} has no images")
        super().__init__(train_labels, len(test_files), options, source.normalisation, seed=seed, device=device)
        size = source.image_shape[1]
        self._train_root, self._train_files = source.train, train_files
        training = (BatchReader(train_files, size, seed), torch.from_numpy(train_labels).to(device))
        testing = (BatchReader(test_files, size, seed), torch.from_numpy(test_labels).to(device))
        self._readers: dict[Split, BatchReader] = {"train": training[0], "val": training[0], "test": testing[0]}
        self._labels = {"train": training[1], "val": training[1], "test": testing[1]}

    def train_batches(
        self, epoch: int, batch_size: int, first_step: int = 0, shard: Shard = UNSHARDED
    ) -> Iterator[Batch]:
        index, view, bounds = self._training_rows(epoch, batch_size)
        parts = [shard.between(start, stop) for start, stop in pairwise(bounds)]
        return self._batches("train", index, view, parts[first_step:])

    def eval_batches(self, split: Split, batch_size: int, shard: Shard = UNSHARDED) -> Iterator[Batch]:
        indices = shard.of(self.indices[split])
        parts = [slice(start, start + batch_size) for start in range(0, len(indices), batch_size)]
        return self._batches(split, indices, np.full(len(indices), CENTRE), parts)

    def views(self, num_epochs: int) -> Views:
        meaning: dict[str, Any] = {"size": self._readers["train"].size, "augment": self.augment}
        if self.augment:
            meaning["seed"] = self.seed
        if self.cutout:
            meaning["cutout"] = self.cutout
        if self.views_shown == 2:
            meaning["strong_views"] = True
        per_image = num_epochs * self.views_shown if self.augment else 1
        return Views(num_images=self.num_images, per_image=per_image, meaning=meaning, unbounded=self.augment)

    def training_batch(self, index: Indices, view: Indices) -> Batch:
        seen = view if self.augment else np.full(len(index), CENTRE)
        return next(self._batches("train", index, seen, [slice(None)], num_workers=0))

    def content_digest(self) -> str:
        """Of the files' names, and so of their classes; their bytes are not read."""
        total = hashlib.sha256()
        for file in self._train_files:
            total.update(f"{Path(file).relative_to(self._train_root)}\n".encode())
        return total.hexdigest()

    def _weak_views(self, epoch: int, index: Indices) -> Indices:
        return np.full(len(index), epoch * self.views_shown if self.augment else CENTRE)

    def _strong_views(self, epoch: int, index: Indices) -> Indices:
        return self._weak_views(epoch, index) + 1

    def _are_strong(self, view: Indices) -> NDArray[np.bool_]:
        return np.asarray(view % self.views_shown == 1)

    def _batches(
        self, split: Split, index: Indices, view: Indices, parts: list[slice], num_workers: int | None = None
    ) -> Iterator[Batch]:
        batches = [(index[part], view[part]) for part in parts]
        loader = DataLoader(
            self._readers[split],
            sampler=batches,
            batch_size=None,  # the reader is asked for a whole batch
            num_workers=self.num_workers if num_workers is None else num_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, for the loader draws from it, and the run's must not move
        )
        for (indices, views), (pixels_NHWC, problem) in zip(batches, loader, strict=True):
            if problem:
                raise UserError(problem)
            pixels_NHWC = pixels_NHWC.to(self.device, non_blocking=True)
            if CENTRE in views:
                images = self.normalised(pixels_NHWC)
            else:
                num_pixels = pixels_NHWC.shape[1] * pixels_NHWC.shape[2]
                middles = self._draw(CUTOUT, below=num_pixels, index=indices, view=views)
                images = self._training_input(pixels_NHWC, indices, views, middles)
            index_N, view_N = torch.from_numpy(indices).to(self.device), torch.from_numpy(views).to(self.device)
            yield Batch(images, self._labels[split][index_N], index_N, view_N)
