"""The store: a data set's arrays as plain .npy files, downloaded once, verified, shared between processes.

Files are memory-mapped, so all processes of a machine share one copy. After verification a file is written to a
temporary name and moved, under a lock, so files are always complete. Each start checks type, shape, length and content,
which detects a file that was truncated or changed later.
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
from ..files import atomic_write, read_json, write_json
from ..logs import hidden_bars, log
from .memory import Arrays

# Raised for an unreachable site, a broken archive or a failing tool: the next download is tried.
DOWNLOAD_ERRORS = (
    OSError,
    RuntimeError,  # torchvision's, for a wrong checksum
    ValueError,
    KeyError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    subprocess.SubprocessError,
    tarfile.TarError,
)
SOCKET_TIMEOUT_SECONDS = 30


class Download(NamedTuple):
    """One way to get a data set."""

    name: str  # of the site, for messages
    fetch: Callable[[Path], Arrays]  # called with an empty folder for its files, which is removed afterwards


@dataclass(frozen=True, kw_only=True)
class Store:
    """Four .npy files, `train_images.npy` to `test_labels.npy`, and how to get them.

    Args:
        folder: The folder of these files.
        shapes: Shape of each array, by its name.
        downloads: Tried in this order.
        manual_download: Instructions for the user if every download fails.
        digests: SHA-256 of each array's bytes in C order, by its name; empty where the download verifies its files:
            then those of its arrays are written beside them.
    """

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    downloads: tuple[Download, ...]
    manual_download: str
    digests: Mapping[str, str]

    def is_ready(self) -> bool:
        return all(_is_intact(self._path(name), shape) for name, shape in self.shapes.items())

    def load(self) -> Arrays:
        """The arrays, memory-mapped copy-on-write; downloaded first if a file is missing or damaged.

        Raises:
            UserError: Every download failed or had the wrong content, or the folder is not writable.
        """
        if not self._is_intact():
            with self._locked():
                if not self._is_intact():  # another process may have written them while this one waited
                    self._create()
        return Arrays(**{name: np.load(self._path(name), mmap_mode="c") for name in self.shapes})

    def _is_intact(self) -> bool:
        """Whether all files are there with the right content."""
        if not self.is_ready():
            return False
        digests = self.digests or _read_digests(self._path_of_digests)
        changed = [name for name, digest in digests.items() if sha256(np.load(self._path(name), "r")) != digest]
        if changed:
            log.warning("%s has changed since it was downloaded: %s", self.folder, ", ".join(changed))
        return not changed

    def _create(self) -> None:
        for leftover in self.folder.glob(".fetch.*"):  # by a process that was killed
            shutil.rmtree(leftover)
        arrays = self._fetch()
        log.info("writing %s", self.folder)
        for name, array in vars(arrays).items():
            with _writable(self.folder), atomic_write(self._path(name)) as temporary, temporary.open("wb") as file:
                np.save(file, array)
        if not self.digests:
            with _writable(self.folder):
                write_json(self._path_of_digests, {name: sha256(array) for name, array in vars(arrays).items()})

    def _fetch(self) -> Arrays:
        """The arrays of the first download that succeeds and has the right content."""
        failures = []
        for download in self.downloads:
            log.info("downloading data set %s from %s", self.folder.name, download.name)
            try:
                with (
                    tempfile.TemporaryDirectory(dir=self.folder, prefix=".fetch.") as temporary,
                    _socket_timeout(),
                    hidden_bars(),
                ):
                    arrays = download.fetch(Path(temporary))
                self._verify(arrays)
            except DOWNLOAD_ERRORS as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                failures.append(f"{download.name} ({reason})")
            else:
                return arrays
        raise UserError(
            f"{self.folder} is missing or damaged and cannot be downloaded: tried {', '.join(failures)}; "
            f"{self.manual_download}"
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
                log.info("waiting for another process that is downloading %s", self.folder)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    @property
    def _path_of_digests(self) -> Path:
        return self.folder / "sha256.json"


def shapes(num_train: int, num_test: int, image_shape_HWC: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a data set's four arrays."""
    return {
        "train_images": (num_train, *image_shape_HWC),
        "train_labels": (num_train,),
        "test_images": (num_test, *image_shape_HWC),
        "test_labels": (num_test,),
    }


def from_torchvision(dataset: str, local_names: tuple[str, ...], data_dir: Path, temporary: Path) -> Arrays:
    """A data set of torchvision, which downloads it and verifies its checksums.

    Args:
        dataset: The name of torchvision's class.
        local_names: Names of its archive and folders; if one exists in `data_dir`, it is used.
        data_dir: The user's folder of data sets.
        temporary: The folder for downloads.
    """
    from torchvision import datasets  # takes as long to import as torch

    root = data_dir if any((data_dir / name).exists() for name in local_names) else temporary
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


def _is_intact(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(array.shape == shape and array.dtype == np.uint8)


def _read_digests(path: Path) -> dict[str, str]:
    """None where an earlier version wrote the arrays."""
    return dict(read_json(path)) if path.exists() else {}


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns errors of writing into a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: the data set cannot be written ({error.strerror})") from None


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """A default timeout for sockets: after an unresponsive site, the next download is tried."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
