"""The user's own images in class sub-folders, read while training: torchvision's ImageFolder layout.

    PATH/train/CLASS/*.jpg
    PATH/test/CLASS/*.jpg      or PATH/val/CLASS/*.jpg without a folder `test`, as ImageNet has it

Classes are the sub-folders of `train`, in the order of their names. What a user may want to know is in docs/images.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import OptionError, UserError, did_you_mean, preview
from ..logs import log
from ..randomness import CUTOUT
from ..registry import DATASETS
from ..types import UNSHARDED, Batch, Normalisation, Shard, Split, SplitOptions, Views
from .base import BasePipeline, on_device
from .image_files import ImageFiles, is_hidden
from .image_index import check_images, name_hashes
from .image_loader import default_workers, read_batches
from .paths import find_data
from .pixels import printable
from .preprocess import Preprocess, as_pil
from .split import Indices

if TYPE_CHECKING:
    from ..types import ImageInput
    from .image_reader import BatchReader

CENTRE_CROP = -1  # the view without augmentation
Part = Literal["train", "test"]
ScalarT = TypeVar("ScalarT", bound=np.generic)
OnError = Literal["refuse", "skip"]
NUM_NAMED = 3  # of broken images, in an error of one line
IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@DATASETS.register
def folder(
    data_dir: Path, *, path: str, image_size: int = 224, num_workers: int | None = None, on_error: OnError = "refuse"
) -> FolderSource:
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
        on_error: What is done about images that cannot be read: "refuse" to train, or "skip" them. All images are
            opened before the first epoch.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    root = find_data(path, data_dir)
    train, test = root / "train", root / ("test" if (root / "test").is_dir() else "val")
    train_folders, test_folders = _class_folders(train), _class_folders(test)
    if unknown := sorted(set(test_folders) - set(train_folders)):
        same = [name for name in train_folders if name.casefold() == unknown[0].casefold()]
        hint = did_you_mean(same[0] if same else unknown[0], train_folders)
        raise OptionError("path", f"{test} has a class that {train} does not have: {unknown[0]}{hint}")
    if len(train_folders) == 1:
        raise OptionError("path", f"{train} has one class, {_one_class(train)}")
    return FolderSource(
        root=root,
        folders={"train": (train, train_folders), "test": (test, test_folders)},
        index_folder=data_dir / "image_folders",
        on_error=on_error,
        num_workers=num_workers,
        class_names=tuple(sorted(train_folders)),
        image_shape=(3, image_size, image_size),
        normalisation=IMAGENET_NORMALISATION,
    )


def _class_folders(parent: Path) -> dict[str, str]:
    """The class folders of a split by the names of their classes: the folder's own in Unicode's normal form."""
    if not parent.is_dir():
        raise OptionError("path", f"no folder {parent}; expected train/CLASS/ and test/CLASS/ or val/CLASS/")
    folders: dict[str, str] = {}
    for entry in sorted(_subfolders(parent)):
        name = unicodedata.normalize("NFC", entry)
        if name in folders:
            raise OptionError("path", f"{parent} has two class folders with the same name in Unicode: {name}")
        if not name.isprintable():  # bytes that are not UTF-8 are not, either
            raise OptionError("path", f"{parent}: the name of a class must be printable UTF-8, got {printable(entry)}")
        folders[name] = entry
    if not folders:
        other = parent.parent / "val"
        hint = f"; {other} has: name it test" if parent.name == "test" and other.is_dir() and _subfolders(other) else ""
        raise OptionError("path", f"{parent} has no class sub-folders{hint}")
    return folders


def _subfolders(parent: Path) -> list[str]:
    try:
        return [entry.name for entry in parent.iterdir() if not is_hidden(entry.name) and entry.is_dir()]
    except OSError as error:
        raise OptionError("path", f"{parent} cannot be read ({error.strerror})") from None


def _one_class(train: Path) -> str:
    (name,) = _subfolders(train)
    inner = sorted(_subfolders(train / name))
    hint = f"; if {preview(inner)} are the classes, move them into {train}" if len(inner) > 1 else ""
    return f"{name}: nothing to tell apart{hint}"


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder of images whose layout has been checked; its files are listed when it is opened.

    Args:
        root: The folder.
        folders: The folder of each split, and the names of the class folders in it by class.
        index_folder: Where it is remembered which images can be read.
    """

    root: Path
    folders: dict[Part, tuple[Path, dict[str, str]]]
    index_folder: Path
    on_error: OnError
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
    two numbers, of which the odd one is the strong view's. With `views_per_image`, the views of all runs are those that
    a run with the split's seed shows in its first epochs.
    """

    in_memory = False

    def __init__(self, source: FolderSource, options: SplitOptions, *, seed: int, device: torch.device) -> None:
        from .image_reader import BatchReader

        if options.alternating_flip:
            raise ValueError("alternating_flip is for data sets in memory: it must be false for folder")
        self.augment = options.augment
        self.num_workers = default_workers(device) if source.num_workers is None else source.num_workers
        self.reads_ahead = self.num_workers > 0
        images = read_folder(source)
        train_files, test_files = images.files["train"], images.files["test"]
        train_labels, test_labels = images.labels["train"], images.labels["test"]
        self._content, self.skipped = images.content, images.skipped
        super().__init__(
            train_labels,
            test_labels,
            options,
            source.normalisation,
            seed=seed,
            device=device,
            split_keys=name_hashes(train_files, source.folders["train"][0]),
        )
        size = source.image_shape[1]
        training = (BatchReader(train_files, size, self._view_seed), torch.from_numpy(train_labels).to(device))
        testing = (BatchReader(test_files, size, self._view_seed), torch.from_numpy(test_labels).to(device))
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
            config["seed"] = self._view_seed
        if self.cutout:
            config["cutout"] = self.cutout
        if self.views_shown == 2:
            config["strong_views"] = True
        unbounded = self.augment and self.views_per_image is None
        per_image = (self.views_per_image or num_epochs) * self.views_shown if self.augment else 1
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

    def _hash_images(self, split: Part) -> NDArray[np.uint64]:
        return self._content[split]

    def _weak_views(self, epoch: int, index: Indices) -> Indices:
        return self._shown_views(epoch, index) * self.views_shown if self.augment else np.full(len(index), CENTRE_CROP)

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
            index_N, view_N = on_device(indices, self.device), on_device(views, self.device)
            yield Batch(images, self._labels[split][index_N], index_N, view_N)


# What the folder has -------------------------------------------------------------------------------------------------


class FolderImages(NamedTuple):
    """The readable images of both splits: their paths, their classes, hashes of their content."""

    files: dict[Part, list[str]]
    labels: dict[Part, NDArray[np.int64]]
    content: dict[Part, NDArray[np.uint64]]
    skipped: tuple[str, ...]


def read_folder(source: FolderSource) -> FolderImages:
    """List and check all images, and log what a user might not expect of them.

    Raises:
        UserError: An image cannot be read, or a class has no images.
    """
    _log_layout(source)
    listed: dict[Part, ImageFiles] = {}
    for part, (folder, class_folders) in source.folders.items():
        listed[part] = ImageFiles(folder, [class_folders.get(name) for name in source.class_names])
        if listed[part].left_out:
            log.info("%s: left out %s", printable(folder), listed[part].describe_left_out())
    labels = {part: images.labels for part, images in listed.items()}
    _refuse_empty(source, labels)
    checked = check_images([*listed["train"].files, *listed["test"].files], source.root, source.index_folder)
    files, content = {part: images.files for part, images in listed.items()}, _halves(checked.content, labels)
    skipped: tuple[str, ...] = ()
    if checked.broken:
        skipped = _handle_broken(source, [*files["train"], *files["test"]], checked.broken)
        is_whole = np.ones(len(checked.content), bool)
        is_whole[list(checked.broken)] = False
        for part, kept in _halves(is_whole, labels).items():
            files[part] = [file for file, keep in zip(files[part], kept, strict=True) if keep]
            labels[part], content[part] = labels[part][kept], content[part][kept]
        _refuse_empty(source, labels)
    _log_contents(source, labels)
    _log_copies(files, labels, content)
    return FolderImages(files, labels, content, skipped)


def _halves(values: NDArray[ScalarT], labels: dict[Part, NDArray[np.int64]]) -> dict[Part, NDArray[ScalarT]]:
    train, test = np.split(values, [len(labels["train"])])
    return {"train": train, "test": test}


def _refuse_empty(source: FolderSource, labels: dict[Part, NDArray[np.int64]]) -> None:
    train, class_folders = source.folders["train"]
    counts = np.bincount(labels["train"], minlength=len(source.class_names))
    if not counts.all():
        raise UserError(f"{train / class_folders[source.class_names[counts.argmin()]]} has no images that can be read")
    if not len(labels["test"]):
        raise UserError(f"{source.folders['test'][0]} has no images that can be read")


def _handle_broken(source: FolderSource, files: list[str], broken: dict[int, str]) -> tuple[str, ...]:
    """The paths of the broken images, which are all logged.

    Raises:
        UserError: They are not to be skipped.
    """
    paths = [printable(Path(files[index]).relative_to(source.root)) for index in broken]
    reasons = [f"{path} ({reason})" for path, reason in zip(paths, broken.values(), strict=True)]
    number = f"{len(broken):,} of {len(files):,} images cannot be read"
    if source.on_error == "skip":
        log.warning("%s: %s and are left out: %s", printable(source.root), number, ", ".join(reasons))
        return tuple(paths)
    if len(broken) > NUM_NAMED:
        log.warning("%s: %s: %s", printable(source.root), number, ", ".join(reasons))
    named = ", ".join(f"{printable(source.root)}/{reason}" for reason in reasons[:NUM_NAMED])
    more = f" and {len(broken) - NUM_NAMED:,} more" if len(broken) > NUM_NAMED else ""
    raise UserError(f'{number}: {named}{more}; "on_error": "skip" trains without them')


def _log_layout(source: FolderSource) -> None:
    """How splits and classes follow from the names of folders, where there is more than one way."""
    (train, _), (test, _), names = source.folders["train"], source.folders["test"], source.class_names
    if test.name == "test" and (val := source.root / "val").is_dir():
        log.info("%s is the test set, %s is not used: validation images are held out of %s", test, val, train)
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        log.info("%s: classes are in the order of their names as text: %s, ...", train, ", ".join(names[:4]))
    if same := [pair for pair in pairwise(sorted(names, key=str.casefold)) if len({*map(str.casefold, pair)}) == 1]:
        log.warning("%s: the classes %s and %s differ in case only", train, *same[0])


def _log_contents(source: FolderSource, labels: dict[Part, NDArray[np.int64]]) -> None:
    counts = np.bincount(labels["test"], minlength=len(source.class_names))
    if missing := [name for name, count in zip(source.class_names, counts, strict=True) if not count]:
        number = f"{len(missing):,} of {len(counts):,} classes"
        log.warning("%s has no images of %s, such as %s", source.folders["test"][0], number, missing[0])


def _log_copies(
    files: dict[Part, list[str]], labels: dict[Part, NDArray[np.int64]], content: dict[Part, NDArray[np.uint64]]
) -> None:
    """Files of equal content, where that makes a number wrong: in both splits, or in several classes."""
    in_train = np.flatnonzero(np.isin(content["test"], content["train"]))
    if len(in_train):
        example = printable(files["test"][in_train[0]])
        log.warning(
            "%s of %s test images are training images, too, such as %s", len(in_train), len(files["test"]), example
        )
    order = np.lexsort((labels["train"], content["train"]))
    sorted_content, sorted_labels = content["train"][order], labels["train"][order]
    copies = np.flatnonzero((sorted_content[1:] == sorted_content[:-1]) & (sorted_labels[1:] != sorted_labels[:-1]))
    if len(copies):
        pair = [printable(files["train"][index]) for index in order[copies[0] : copies[0] + 2]]
        log.warning("%s training images are in two classes, such as %s and %s", len(copies), *pair)
