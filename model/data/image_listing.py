"""The images of a data set in any form: listed, opened once, split into train, val and test.

A form (a folder, a table, a data set of Hugging Face) lists its images as an `ImageListing`. `read_listing` does the
rest, the same for all of them: it opens every image, refuses or leaves out those that cannot be read, draws the test
images where nobody has split them, and logs what a user might not expect.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, UserError
from ..logs import log
from .image_index import Images, check_images
from .pixels import printable
from .split import Indices, draw_test

OnError = Literal["refuse", "skip"]
NUM_NAMED = 3  # of broken images, in an error of one line
TRAIN, VAL, TEST = range(3)


@dataclass(frozen=True, kw_only=True)
class ImageListing:
    """The images of a data set in its order, before any of them has been opened. M images.

    Args:
        root: What messages call the data set: all paths of images begin with it, where they lie below it.
        places: What messages call its training and its test images.
        images: Where their bytes are.
        labels: (M,), the class of each image.
        splits: (M,), TRAIN, VAL or TEST. Without VAL, val is drawn from the training images.
        keys: (M,), by which images are drawn: they follow an image, such as a hash of its name; None for its content's.
        groups: (M,), equal for images that are drawn together, such as the frames of a video; None without groups.
        keeps_copies_together: Whether images of equal content are drawn together.
        test_fraction: The part of each class that is drawn as test images, where none are given.
        index_name: The name of the file in which it is remembered which images can be read.
        index_keys: (M,), the key of each image in this file.
    """

    root: str
    places: tuple[str, str]
    images: Images
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    keys: NDArray[np.uint64] | None
    groups: NDArray[np.uint64] | None = None
    keeps_copies_together: bool = True
    test_fraction: float | None = None
    index_name: str
    index_keys: NDArray[np.uint64]

    def select(self, rows: Indices) -> ImageListing:
        """Some of the images, in this order."""
        return replace(
            self,
            images=self.images.select(rows),
            labels=self.labels[rows],
            splits=self.splits[rows],
            keys=None if self.keys is None else self.keys[rows],
            groups=None if self.groups is None else self.groups[rows],
            index_keys=self.index_keys[rows],
        )


class ReadableImages(NamedTuple):
    """The images of one part of a data set that can be read; train and val are one part."""

    images: Images
    labels: NDArray[np.int64]
    content: NDArray[np.uint64]  # (M,), a hash of each image's bytes
    sides: NDArray[np.uint32]  # (M,), see CheckedImages
    is_val: NDArray[np.bool_]
    keys: NDArray[np.uint64]
    groups: NDArray[np.uint64] | None  # which are drawn together; None where each is drawn for itself


class ReadListing(NamedTuple):
    """The training images, of which val is a part or will be drawn, and the test images."""

    train: ReadableImages
    test: ReadableImages
    skipped: tuple[str, ...]


def read_listing(
    listing: ImageListing, class_names: Sequence[str], *, index_folder: Path, on_error: OnError
) -> ReadListing:
    """Open all images, draw the test images, and log what a user might not expect of them.

    Raises:
        UserError: An image cannot be read, or a class has no images.
    """
    _refuse_empty(listing, class_names)
    checked = check_images(listing.images, listing.index_keys, index_folder / listing.index_name, listing.root)
    content, sides, skipped = checked.content, checked.sides, tuple[str, ...]()
    if checked.broken:
        skipped = _handle_broken(listing, checked.broken, on_error)
        readable = np.setdiff1d(np.arange(len(listing.labels)), list(checked.broken))
        listing, content, sides = listing.select(readable), content[readable], sides[readable]
        _refuse_empty(listing, class_names)
    keys, groups = content if listing.keys is None else listing.keys, listing.groups
    if listing.keeps_copies_together:
        groups = merged_groups(keys if groups is None else groups, content)
    splits = listing.splits
    if listing.test_fraction is not None:
        is_test = draw_test(listing.labels, listing.test_fraction, keys if groups is None else groups)
        splits = np.where(is_test, TEST, splits)
        listing = replace(listing, splits=splits)
        _refuse_empty(listing, class_names)
    train, test = (
        ReadableImages(
            images=listing.images.select(rows),
            labels=listing.labels[rows],
            content=content[rows],
            sides=sides[rows],
            is_val=splits[rows] == VAL,
            keys=keys[rows],
            groups=None if groups is None else groups[rows],
        )
        for rows in (np.flatnonzero(splits != TEST), np.flatnonzero(splits == TEST))
    )
    _log_missing_classes(listing, class_names, test.labels)
    _log_copies(train, test)
    return ReadListing(train, test, skipped)


def merged_groups(groups: NDArray[np.uint64], content: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Groups that hold all images of equal content, too: a group is named by the smallest number that it had before."""
    merged = groups
    while True:
        before = merged
        for members in (content, groups):
            _, inverse = np.unique(members, return_inverse=True)
            smallest = np.full(inverse.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
            np.minimum.at(smallest, inverse, merged)
            merged = smallest[inverse]
        if np.array_equal(merged, before):
            return merged


def refuse_wrong_fraction(test_fraction: float | None) -> None:
    """Raise an error of one line where the option is no part of a class."""
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise OptionError("test_fraction", f"must be above 0 and below 1, got {test_fraction}")


def refuse_one_class(name: str, class_names: Sequence[str]) -> None:
    """Raise an error of one line where there is nothing to tell apart."""
    if len(class_names) < 2:
        raise OptionError("path", f"{name} has one class, {class_names[0]}: nothing to tell apart")


def log_class_names(place: str, names: Sequence[str]) -> None:
    """What a user may not expect of classes in the order of their names."""
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        log.info("%s: classes are in the order of their names as text: %s, ...", place, ", ".join(names[:4]))
    if same := [pair for pair in pairwise(sorted(names, key=str.casefold)) if len({*map(str.casefold, pair)}) == 1]:
        log.warning("%s: the classes %s and %s differ in case only", place, *same[0])


def _refuse_empty(listing: ImageListing, class_names: Sequence[str]) -> None:
    train, test = listing.places
    counts = np.bincount(listing.labels[listing.splits == TRAIN], minlength=len(class_names))
    if not counts.all():
        raise UserError(f"{train} has no images of the class {class_names[int(counts.argmin())]} that can be read")
    if listing.test_fraction is None and not (listing.splits == TEST).any():
        raise UserError(f"{test} has no images that can be read")


def _handle_broken(listing: ImageListing, broken: dict[int, str], on_error: OnError) -> tuple[str, ...]:
    """The names of the broken images, which are all logged.

    Raises:
        UserError: They are not to be skipped.
    """
    root, total = printable(listing.root), len(listing.labels)
    names = [printable(listing.images.path(index)).removeprefix(f"{root}{os.sep}") for index in broken]
    reasons = [f"{name} ({reason})" for name, reason in zip(names, broken.values(), strict=True)]
    number = f"{len(broken):,} of {total:,} images cannot be read"
    if on_error == "skip":
        log.warning("%s: %s and are left out: %s", root, number, ", ".join(reasons))
        return tuple(names)
    if len(broken) > NUM_NAMED:
        log.warning("%s: %s: %s", root, number, ", ".join(reasons))
    paths = [printable(listing.images.path(index)) for index in list(broken)[:NUM_NAMED]]
    named = ", ".join(f"{path} ({reason})" for path, reason in zip(paths, broken.values(), strict=False))
    more = f" and {len(broken) - NUM_NAMED:,} more" if len(broken) > NUM_NAMED else ""
    raise UserError(f'{number}: {named}{more}; "on_error": "skip" trains without them')


def _log_missing_classes(listing: ImageListing, class_names: Sequence[str], labels: NDArray[np.int64]) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    if missing := [name for name, count in zip(class_names, counts, strict=True) if not count]:
        test = "test" if listing.test_fraction is not None else listing.places[1]
        number = f"{len(missing):,} of {len(counts):,} classes"
        log.warning("%s has no images of %s, such as %s", test, number, missing[0])


def _log_copies(train: ReadableImages, test: ReadableImages) -> None:
    """Images of equal content, where that makes a number wrong: in train and test, or in several classes."""
    in_train = np.flatnonzero(np.isin(test.content, train.content))
    if len(in_train):
        example = printable(test.images.path(int(in_train[0])))
        log.warning(
            "%s of %s test images are training images, too, such as %s", len(in_train), len(test.labels), example
        )
    order = np.lexsort((train.labels, train.content))
    content, labels = train.content[order], train.labels[order]
    copies = np.flatnonzero((content[1:] == content[:-1]) & (labels[1:] != labels[:-1]))
    if len(copies):
        pair = [printable(train.images.path(int(index))) for index in order[copies[0] : copies[0] + 2]]
        log.warning("%s training images are in two classes, such as %s and %s", len(copies), *pair)
