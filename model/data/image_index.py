"""Every image is decoded once before the first epoch. What was found is remembered: later runs do not repeat it.

The index of a data set has a row for each image that could be read: size and times of the file, a hash of its content,
and the shorter side of a JPEG image.
An image whose size and times are as remembered is not read again. As a hint can be wrong, some images are read again at
every start, and all of them if one of these has changed.
"""

from __future__ import annotations

import io
import os
import time
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import filelock
import numpy as np
from numpy.typing import NDArray

from ..cpus import usable_cpus
from ..files import atomic_write
from ..fingerprint import content_hash, digest
from ..logs import ProgressBar, log
from .pixels import decode, jpeg_side, open_image, printable, why_broken

ROW = np.dtype(
    [("name", "u8"), ("size", "i8"), ("modified", "i8"), ("changed", "i8"), ("content", "u8"), ("side", "u4")]
)
UNKNOWN = -1  # the size of a file that has to be read
VERSION = 2  # of the index and of what counts as readable
NUM_SAMPLED = 64  # images that are read again at every start
CHUNK = 64  # images, the unit of work of a thread
# A file that changed this shortly before it was read may change again without a new time: these clocks are coarse.
SETTLED_NS = 2_000_000_000


class Stamps(NamedTuple):
    """What changes with an image. The last is renewed where a program restores the second."""

    size: int
    modified: int
    changed: int


NOT_THERE = Stamps(UNKNOWN, 0, 0)


class Images(Protocol):
    """Where the bytes of some images are."""

    def __len__(self) -> int: ...

    def path(self, index: int) -> str:
        """What messages call an image; the extension tells a format that has no signature."""

    def stamps(self, index: int) -> Stamps:
        """The size and times of an image, without reading it; NOT_THERE where that cannot be."""

    def read(self, index: int) -> tuple[Stamps, bytes]:
        """The bytes of an image, and its stamps at that time.

        Raises:
            OSError: It cannot be read.
        """

    def select(self, rows: NDArray[np.integer]) -> Images:
        """Some of the images, in this order."""


class ImagePaths:
    """Images that are files.

    Args:
        paths: (M,), absolute.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return self.paths[index]

    def stamps(self, index: int) -> Stamps:
        try:
            return _stamps(Path(self.paths[index]).stat())
        except OSError:  # the reason is found where it is read
            return NOT_THERE

    def read(self, index: int) -> tuple[Stamps, bytes]:
        with Path(self.paths[index]).open("rb") as file:
            return _stamps(os.fstat(file.fileno())), file.read()

    def select(self, rows: NDArray[np.integer]) -> ImagePaths:
        return ImagePaths([self.paths[row] for row in rows])


def _stamps(stat: os.stat_result) -> Stamps:
    return Stamps(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class CheckedImages(NamedTuple):
    """What is known about some images after all of them have been opened."""

    content: NDArray[np.uint64]  # (M,), a hash of each file
    sides: NDArray[np.uint32]  # (M,), the shorter side of an image that can be decoded at a smaller size; 0 for others
    broken: dict[int, str]  # index of an image that cannot be read -> why


def check_images(images: Images, keys: NDArray[np.uint64], index_file: Path, name: str) -> CheckedImages:
    """Open all images that are not known to be readable.

    Args:
        keys: (M,), a key of each image: what is remembered is found by it.
        index_file: The index of this data set; its folder is made if it does not exist.
        name: What messages call the data set.
    """
    with _locked(index_file) as is_writable:
        remembered = _read_index(index_file, keys)
        _forget_if_sample_differs(images, remembered)
        rows = remembered.copy()
        try:
            broken = _check(images, rows, name)
        finally:  # what an interrupted check has read is remembered, too
            if is_writable and not np.array_equal(rows, remembered):
                _write_index(index_file, rows)
    return CheckedImages(rows["content"], rows["side"], broken)


def index_name(identity: str) -> str:
    """The name of the index file of a data set, by what tells it from others: its folder's real path."""
    return f"{digest(os.fsencode(identity))}.v{VERSION}.npz"


def name_hashes(files: Sequence[str], root: Path | None = None) -> NDArray[np.uint64]:
    """A hash of the path of every file, (M,), below a folder, or relative to it already."""
    start = 0 if root is None else len(f"{root}{os.sep}")
    # A copy on another system may have the same names in another normalisation of Unicode.
    names = (os.fsencode(unicodedata.normalize("NFC", file[start:].replace(os.sep, "/"))) for file in files)
    return np.fromiter(map(content_hash, names), np.uint64, len(files))


def _check(images: Images, rows: NDArray[np.void], name: str) -> dict[int, str]:
    """Fill in the rows of all images that have changed; returns which of them are broken, and why."""
    chunks = [range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK)]

    def check_chunk(chunk: range) -> tuple[int, dict[int, str]]:
        changed = [index for index in chunk if _differs(images.stamps(index), rows[index])]
        reasons = {index: _read(images, index, rows[index]) for index in changed}
        return len(chunk), {index: reason for index, reason in reasons.items() if reason}

    broken: dict[int, str] = {}
    bar = ProgressBar(total=len(images), desc=f"checking {printable(name)}", unit=" images", delay=1)
    pool = ThreadPoolExecutor(usable_cpus())  # Pillow decodes, and files are read, without Python's global lock
    try:
        with bar, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            for num_images, reasons in pool.map(check_chunk, chunks):
                broken |= reasons
                bar.update(num_images)
    finally:
        pool.shutdown(cancel_futures=True)
    return broken


def _differs(stamps: Stamps, row: np.void) -> bool:
    return row["size"] == UNKNOWN or stamps != (row["size"], row["modified"], row["changed"])


def _read(images: Images, index: int, row: np.void) -> str | None:
    """Read an image and fill in its row; returns why it is broken, None if it is not."""
    row["size"] = UNKNOWN
    try:
        stamps, content = images.read(index)
        row["content"] = content_hash(content)
        with open_image(images.path(index), io.BytesIO(content)) as image:
            row["side"] = jpeg_side(image)
        decode(images.path(index), "RGB", io.BytesIO(content))
    except Exception as error:  # Pillow raises almost anything on damaged files
        return why_broken(error)
    if abs(time.time_ns() - max(stamps.modified, stamps.changed)) > SETTLED_NS:
        row["size"], row["modified"], row["changed"] = stamps
    return None


def _forget_if_sample_differs(images: Images, rows: NDArray[np.void]) -> None:
    known = np.flatnonzero(rows["size"] != UNKNOWN)
    sample = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), NUM_SAMPLED)).astype(int))]
    for index in sample.tolist():
        row = rows[index]
        with suppress(OSError):  # found by the check
            _, content = images.read(index)
            if content_hash(content) == row["content"] or _differs(images.stamps(index), row):
                continue
            path = printable(images.path(index))
            log.warning("%s has changed, but not its size and dates: all images are read again", path)
            rows["size"] = UNKNOWN
            return


# The index file ------------------------------------------------------------------------------------------------------


def _read_index(path: Path, names: NDArray[np.uint64]) -> NDArray[np.void]:
    """The row of each file, by the hashes of their names; of unknown size where none is remembered."""
    rows = np.zeros(len(names), ROW)
    rows["name"], rows["size"] = names, UNKNOWN
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            stored = archive["rows"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):  # none yet, or damaged
        return rows
    if stored.dtype == ROW and stored.ndim == 1 and len(stored):
        position = np.searchsorted(stored["name"], names).clip(max=len(stored) - 1)
        found = stored["name"][position] == names
        rows[found] = stored[position[found]]
    return rows


def _write_index(path: Path, rows: NDArray[np.void]) -> None:
    known = rows[rows["size"] != UNKNOWN]
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, rows=known[np.argsort(known["name"])])
    except OSError as error:
        _log_not_remembered(path, error)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Let one process at a time check a folder, as the others find its work done; whether the index can be written."""
    lock = filelock.FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            log.info("waiting for another process that checks the same images")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # read-only, or a file system without locks
        _log_not_remembered(path, error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _log_not_remembered(path: Path, error: Exception) -> None:
    log.info("%s cannot be written (%s): images are checked again at the next start", printable(path), error)
