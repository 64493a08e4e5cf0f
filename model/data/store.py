"""The store: a data set's arrays as plain .npy files, fetched once, verified, shared between processes.

Files are opened by memory map, so a start costs no reading and all processes of a machine share one copy. A file is
written beside its place and moved over it, under a lock, after its content has been verified: what lies in its place
is whole. Each start checks type, shape and length, which tells a file that was cut short since.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from ..files import atomic_write
from ..logs import log
from .memory import Arrays

# What an unreachable site, a broken archive or a failing tool raises: the next source is tried.
FETCH_ERRORS = (
    OSError,
    RuntimeError,  # torchvision's, for a file whose checksum is wrong
    ValueError,
    KeyError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    subprocess.SubprocessError,
    tarfile.TarError,
)
PATIENCE_SECONDS = 30  # a site that is silent for so long is given up


class Source(NamedTuple):
    """A place that a data set can come from."""

    name: str
    fetch: Callable[[Path], Arrays]  # is given an empty folder for its downloads, removed afterwards


@dataclass(frozen=True, kw_only=True)
class Store:
    """Four .npy files, `train_images.npy` to `test_labels.npy`, and how to make them.

    Args:
        folder: Where they lie.
        shapes: Shape of each array, by its name.
        sources: Tried in this order.
        digests: SHA-256 of each array's bytes in C order, by its name; empty where the source verifies.
        by_hand: What a user can do where no source can be reached.
    """

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    sources: tuple[Source, ...]
    by_hand: str
    digests: Mapping[str, str]

    def is_ready(self) -> bool:
        return all(_is_whole(self._path(name), shape) for name, shape in self.shapes.items())

    def load(self) -> Arrays:
        """The arrays, mapped copy-on-write; made first where a file is missing or damaged.

        Raises:
            UserError: No source could be reached or gave the right content, or the folder cannot be written to.
        """
        if not self.is_ready():
            with self._locked():
                if not self.is_ready():  # another process may have made them while this one waited
                    self._make()
        return Arrays(**{name: np.load(self._path(name), mmap_mode="c") for name in self.shapes})

    def _make(self) -> None:
        for leftover in self.folder.glob(".fetch.*"):  # of a process that was killed
            shutil.rmtree(leftover)
        arrays = self._fetched()
        log.info("writing %s", self.folder)
        for name, array in vars(arrays).items():
            with _writable(self.folder), atomic_write(self._path(name)) as temporary, temporary.open("wb") as file:
                np.save(file, array)

    def _fetched(self) -> Arrays:
        """What the first source gives that can be reached and has the right content."""
        failures = []
        for source in self.sources:
            log.info("fetching %s from %s", self.folder.name, source.name)
            try:
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetch.") as temporary, _impatient():
                    arrays = source.fetch(Path(temporary))
                self._verify(arrays)
            except FETCH_ERRORS as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                failures.append(f"{source.name} ({reason})")
            else:
                return arrays
        raise UserError(
            f"{self.folder} is missing or damaged and cannot be fetched: tried {', '.join(failures)}; {self.by_hand}"
        )

    def _verify(self, arrays: Arrays) -> None:
        for name, array in vars(arrays).items():
            if array.shape != self.shapes[name] or array.dtype != np.uint8:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected uint8 {self.shapes[name]}")
            if name in self.digests and sha256(array) != self.digests[name]:
                raise ValueError(f"{name} has the wrong SHA-256 sum")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = filelock.FileLock(self.folder / ".lock")
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                log.info("waiting for another process, which makes %s", self.folder)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def shapes(num_train: int, num_test: int, image_shape_HWC: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a data set's four arrays."""
    return {
        "train_images": (num_train, *image_shape_HWC),
        "train_labels": (num_train,),
        "test_images": (num_test, *image_shape_HWC),
        "test_labels": (num_test,),
    }


def official(dataset: str, at_hand: tuple[str, ...], data_dir: Path, temporary: Path) -> Arrays:
    """A data set of torchvision, which fetches it and verifies its checksums.

    Args:
        dataset: The name of torchvision's class.
        at_hand: Names of its archive and folders; where one lies in `data_dir` already, that is used.
        data_dir: Where a user keeps data sets.
        temporary: Where a download goes.
    """
    from torchvision import datasets  # not above, for it takes as long to import as torch does

    root = data_dir if any((data_dir / name).exists() for name in at_hand) else temporary
    train, test = (getattr(datasets, dataset)(root, train=train, download=True) for train in (True, False))
    return Arrays(
        train_images=_with_channels(train.data),
        train_labels=np.asarray(train.targets).astype(np.uint8),
        test_images=_with_channels(test.data),
        test_labels=np.asarray(test.targets).astype(np.uint8),
    )


def _with_channels(images: ArrayLike) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, C) to (N, H, W, C)."""
    array = np.asarray(images)
    return array.reshape(*array.shape[:3], -1)


def sha256(array: NDArray[np.generic]) -> str:
    """Digest of the array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(array.shape == shape and array.dtype == np.uint8)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write the data set there ({error.strerror})") from None


@contextmanager
def _impatient() -> Iterator[None]:
    """A time limit for sockets that have none of their own: a silent site must not keep the next one waiting."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
