"""Every image is decoded once before the first epoch. What was found is remembered: later runs do not repeat it.

The index of a folder has a row for each image that could be read: size and times of the file, a hash of its content.
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
from typing import NamedTuple

import filelock
import numpy as np
from numpy.typing import NDArray

from ..cpus import usable_cpus
from ..files import atomic_write
from ..fingerprint import content_hash, digest
from ..logs import ProgressBar, log
from .pixels import decode, printable, why_broken

ROW = np.dtype([("name", "u8"), ("size", "i8"), ("modified", "i8"), ("changed", "i8"), ("content", "u8")])
UNKNOWN = -1  # the size of a file that has to be read
VERSION = 1  # of the index and of what counts as readable
NUM_SAMPLED = 64  # images that are read again at every start
CHUNK = 64  # images, the unit of work of a thread
# A file that changed this shortly before it was read may change again without a new time: these clocks are coarse.
SETTLED_NS = 2_000_000_000


class CheckedImages(NamedTuple):
    """What is known about some images after all of them have been opened."""

    content: NDArray[np.uint64]  # (M,), a hash of each file
    broken: dict[int, str]  # index of an image that cannot be read -> why


def check_images(files: Sequence[str], root: Path, index_folder: Path) -> CheckedImages:
    """Open all images that are not known to be readable.

    Args:
        root: The folder that they lie in.
        index_folder: Where the index of this folder is kept; made if it does not exist.
    """
    path = index_folder / f"{digest(os.fsencode(root.resolve()))}.v{VERSION}.npz"
    names = name_hashes(files, root)
    with _locked(path) as is_writable:
        remembered = _read_index(path, names)
        _forget_if_sample_differs(files, remembered)
        rows = remembered.copy()
        try:
            broken = _check(files, rows, root)
        finally:  # what an interrupted check has read is remembered, too
            if is_writable and not np.array_equal(rows, remembered):
                _write_index(path, rows)
    return CheckedImages(rows["content"], broken)


def name_hashes(files: Sequence[str], root: Path) -> NDArray[np.uint64]:
    """A hash of the path of every file below a folder, (M,)."""
    start = len(f"{root}{os.sep}")
    # A copy on another system may have the same names in another normalisation of Unicode.
    names = (os.fsencode(unicodedata.normalize("NFC", file[start:].replace(os.sep, "/"))) for file in files)
    return np.fromiter(map(content_hash, names), np.uint64, len(files))


def _check(files: Sequence[str], rows: NDArray[np.void], root: Path) -> dict[int, str]:
    """Fill in the rows of all images that have changed; returns which of them are broken, and why."""
    chunks = [range(start, min(start + CHUNK, len(files))) for start in range(0, len(files), CHUNK)]

    def check_chunk(chunk: range) -> tuple[int, dict[int, str]]:
        part = rows[chunk.start : chunk.stop]
        changed = _differing(files[chunk.start : chunk.stop], part)
        reasons = {chunk[i]: _read(Path(files[chunk[i]]), part[i]) for i in changed}
        return len(chunk), {index: reason for index, reason in reasons.items() if reason}

    broken: dict[int, str] = {}
    bar = ProgressBar(total=len(files), desc=f"checking {printable(root)}", unit=" images", delay=1)
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


def _differing(files: Sequence[str], rows: NDArray[np.void]) -> NDArray[np.integer]:
    """Which files are not as remembered."""
    stamps = np.array([_stamps_of(Path(file)) for file in files])
    remembered = np.stack([rows["size"], rows["modified"], rows["changed"]], axis=1)
    return np.flatnonzero((stamps != remembered).any(axis=1) | (rows["size"] == UNKNOWN))


def _stamps_of(path: Path) -> tuple[int, int, int]:
    try:
        return _stamps(path.stat())
    except OSError:  # the reason is found where it is read
        return UNKNOWN, 0, 0


def _stamps(stat: os.stat_result) -> tuple[int, int, int]:
    """Size, modification and status change: the last is renewed where a program restores the second."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read(path: Path, row: np.void) -> str | None:
    """Read an image and fill in its row; returns why it is broken, None if it is not."""
    row["size"] = UNKNOWN
    try:
        with path.open("rb") as file:
            stamps, content = _stamps(os.fstat(file.fileno())), file.read()
        row["content"] = content_hash(content)
        decode(path, "RGB", io.BytesIO(content))
    except Exception as error:  # Pillow raises almost anything on damaged files
        return why_broken(error)
    if abs(time.time_ns() - max(stamps[1:])) > SETTLED_NS:
        row["size"], row["modified"], row["changed"] = stamps
    return None


def _forget_if_sample_differs(files: Sequence[str], rows: NDArray[np.void]) -> None:
    known = np.flatnonzero(rows["size"] != UNKNOWN)
    sample = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), NUM_SAMPLED)).astype(int))]
    for index in sample:
        path, row = Path(files[index]), rows[index]
        with suppress(OSError):  # found by the check
            if content_hash(path.read_bytes()) == row["content"] or len(_differing([files[index]], rows[[index]])):
                continue
            log.warning("%s has changed, but not its size and dates: all images are read again", printable(path))
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
