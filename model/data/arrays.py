"""The user's own images in a .npz file that fits into memory."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import OptionError, first_sentence, preview
from ..registry import DATASETS
from ..types import Normalisation, SplitOptions
from .memory import Arrays, Augmentation, MemoryPipeline
from .paths import find_data
from .preprocess import Preprocess, resize

CHUNK = 1000  # images per histogram
MOST_CHANNELS = 4  # a second axis up to this size before a longer last one is that of channels first
# What reading a .npz file raises that is cut short, damaged, encrypted, or claims to be larger than memory.
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@DATASETS.register
def arrays(data_dir: Path, *, path: str, pad: int = 4, flip: bool = True) -> ArraysSource:
    """Your own images and labels, from a .npz file.

    It contains `train_images` and `test_images`, uint8 of shape (N, H, W, C) or (N, H, W); `train_labels` and
    `test_labels`, integers from 0; and optionally `class_names`, texts. Normalisation uses the training images'
    statistics.

    Args:
        data_dir: The folder of the data sets.
        path: The file, relative to the data folder or to the repository's root, or absolute.
        pad: Width in pixels of the zero padding around an image, before the random crop.
        flip: Whether images are randomly flipped.
    """
    if pad < 0:
        raise ValueError(f"pad must be 0 or more, got {pad}")
    file = find_data(path, data_dir)
    if not zipfile.is_zipfile(file):
        raise OptionError("path", f"{file} is not a .npz file")
    with _opened(file) as archive:
        image_shape = _image_shape(archive)
        class_names = _class_names(archive)
    return ArraysSource(
        file=file, class_names=class_names, image_shape=image_shape, augmentation=Augmentation(pad=pad, flip=flip)
    )


@dataclass(frozen=True, kw_only=True)
class ArraysSource:
    """A .npz file whose arrays have been checked; images are read when they are first needed."""

    file: Path
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    augmentation: Augmentation

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(image_shape=self.image_shape, normalisation=self.normalisation, fit=resize)

    def is_ready(self) -> bool:
        return True

    @cached_property
    def arrays(self) -> Arrays:
        C, H, W = self.image_shape
        with _opened(self.file) as archive:
            return Arrays(
                train_images=archive["train_images"].reshape(-1, H, W, C),
                train_labels=archive["train_labels"].astype(np.int64),
                test_images=archive["test_images"].reshape(-1, H, W, C),
                test_labels=archive["test_labels"].astype(np.int64),
            )

    @cached_property
    def normalisation(self) -> Normalisation:
        mean, std = channel_statistics(self.arrays.train_images)
        if 0 in std:
            raise OptionError("path", f"{self.file}: channel {std.index(0)} of train_images has one value only")
        return Normalisation(mean=mean, std=std)

    def open(self, options: SplitOptions, *, seed: int, device: torch.device) -> MemoryPipeline:
        augmentation = self.augmentation.with_options(options)
        return MemoryPipeline(self.arrays, options, self.normalisation, augmentation, seed=seed, device=device)


@contextmanager
def _opened(file: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The file, whose errors name it in one line."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            yield archive
    except OptionError as error:
        raise OptionError("path", f"{file}: {error.message}") from None
    except UNREADABLE as error:
        raise OptionError("path", f"{file} cannot be read ({first_sentence(error)})") from None


def channel_statistics(images_NHWC: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel over all pixels, scaled to [0, 1]; exact, from histograms."""
    num_channels = images_NHWC.shape[-1]
    counts = np.zeros((num_channels, 256), np.int64)
    for start in range(0, len(images_NHWC), CHUNK):
        for channel in range(num_channels):
            counts[channel] += np.bincount(images_NHWC[start : start + CHUNK, ..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    mean = frequencies @ values
    std = np.sqrt((frequencies * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(std.tolist())


def _image_shape(archive: np.lib.npyio.NpzFile) -> tuple[int, int, int]:
    """C, H, W of the images, from the arrays' headers: no image is read."""
    shapes = {}
    for key in ("train_images", "test_images"):
        shape, dtype = _header(archive, key)
        if dtype != np.uint8:
            scaled, top = ("(255 * images).round()", 1) if np.issubdtype(dtype, np.floating) else ("images", 255)
            hint = f"{scaled}.astype(np.uint8) converts values from 0 to {top}"
            raise OptionError("", f"{key} must be uint8, got {dtype}; {hint}")
        if len(shape) not in (3, 4):
            raise OptionError("", f"{key} must have the shape (N, H, W, C) or (N, H, W), got {shape}")
        if 0 in shape:
            raise OptionError("", f"{key} is empty: its shape is {shape}")
        if len(shape) == 4 and shape[1] <= MOST_CHANNELS < shape[3]:
            hint = "images.transpose(0, 2, 3, 1) puts channels last"
            raise OptionError("", f"{key} must have the shape (N, H, W, C), got {shape}; {hint}")
        num_labels = len(_labels(archive, key.replace("images", "labels")))
        if shape[0] != num_labels:
            raise OptionError("", f"{key} has {shape[0]} images, {key.replace('images', 'labels')} {num_labels} labels")
        shapes[key] = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
    if shapes["train_images"] != shapes["test_images"]:
        raise OptionError("", f"train_images are {shapes['train_images']}, test_images {shapes['test_images']}")
    height, width, channels = shapes["train_images"]
    return channels, height, width


def _class_names(archive: np.lib.npyio.NpzFile) -> tuple[str, ...]:
    """The file's `class_names`, by default the numbers up to the largest training label."""
    train, test = _labels(archive, "train_labels"), _labels(archive, "test_labels")
    if train.min() == train.max():
        raise OptionError("", f"all train_labels are {train[0]}: one class, nothing to tell apart")
    names = _names(archive) if "class_names" in archive else _numbered(train)
    for key, labels in (("train_labels", train), ("test_labels", test)):
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= len(names):
            wrong = lowest if lowest < 0 else highest
            raise OptionError("", f"{key} must be from 0 to {len(names) - 1}, got {wrong}{_unsigned(wrong, labels)}")
    return names


def _names(archive: np.lib.npyio.NpzFile) -> tuple[str, ...]:
    shape, _ = _header(archive, "class_names")
    if len(shape) != 1:
        raise OptionError("", f"class_names must have the shape (K,), got {shape}")
    names = [
        name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)
        for name in archive["class_names"].tolist()
    ]
    if empty := [number for number, name in enumerate(names) if not name.strip()]:
        raise OptionError("", f"class_names: the name of class {empty[0]} is empty")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise OptionError("", f"class_names has {preview(twice[0])} twice")
    return tuple(names)


def _numbered(labels: NDArray[np.integer]) -> tuple[str, ...]:
    """A name for each label from 0 on; every one of them must occur."""
    present = np.unique(labels)
    present = present[present >= 0]
    missing = [*np.flatnonzero(present != np.arange(len(present), dtype=present.dtype)), len(present)][0]
    highest = int(labels.max())
    if missing <= highest or not missing:
        hint = f", the highest is {highest}{_unsigned(highest, labels)}"
        raise OptionError("", f"no training image has the label {missing}; labels count from 0{hint}")
    return tuple(map(str, range(missing)))


def _unsigned(label: int, labels: NDArray[np.integer]) -> str:
    """What a label may have been before it was stored without a sign."""
    info = np.iinfo(labels.dtype)
    return f" (-1 as {labels.dtype}?)" if info.min == 0 and label == info.max else ""


def _labels(archive: np.lib.npyio.NpzFile, key: str) -> NDArray[np.integer]:
    shape, dtype = _header(archive, key)
    if not np.issubdtype(dtype, np.integer):
        raise OptionError("", f"{key} must be integers, got {dtype}")
    if len(shape) != 1:
        raise OptionError("", f"{key} must have the shape (N,), got {shape}")
    labels: NDArray[np.integer] = archive[key]
    return labels


def _header(archive: np.lib.npyio.NpzFile, key: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    if key not in archive:
        raise OptionError("", f"no array {key}; the file has {', '.join(archive.files) or 'none'}")
    assert archive.zip is not None, "the file is closed"
    with archive.zip.open(key if key in archive.zip.namelist() else f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype
