"""A row file: a sparse file of fixed-size rows, read and written by several processes at once without a lock.

In the teacher cache a row is what the teacher outputs for one view of one training image. A row is 16-bit words and a
checksum, a hash of the words and of the row's number. A row whose checksum does not match is treated as missing: one
that was never written, half written when its process was killed, read while another process writes it, corrupted on
disk, or copied from another row. So no lock is needed. Rows are read through a memory map and written by pwrite: on a
full disk, writing into a hole of a memory map kills the process.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..randomness import CHECK, random_bits

Rows = NDArray[np.integer]  # (N,) row numbers
Words = NDArray[np.uint16]  # (N, width)


class RowFile:
    """The rows of one file.

    Args:
        path: The file; created where it is missing, extended where it is too short.
        num_rows: Number of rows that the file has room for.
        width: Words in a row.

    Raises:
        OSError: The file can neither be opened nor created.
    """

    def __init__(self, path: Path, *, num_rows: int, width: int) -> None:
        self.path, self.num_rows, self.width = path, num_rows, width
        self._row = np.dtype([("checksum", "<u4"), ("words", "<u2", (width,))])
        self.was_truncated = False
        self.num_corrupt = 0  # rows that were read so far, have been written, and do not match their checksum
        self._file = self._open()
        self._map = mmap.mmap(self._file, self.size, prot=mmap.PROT_READ)
        self._table = np.frombuffer(self._map, self._row)
        self._factors = random_bits(CHECK, width, index=np.arange(width)) | np.uint64(1)

    @property
    def size(self) -> int:
        """Bytes of the file when all rows have been written."""
        return self.num_rows * self._row.itemsize

    def read(self, rows_N: Rows) -> tuple[Words, NDArray[np.bool_]]:
        """The words of the rows, (N, width), and which of the rows are valid, (N,)."""
        content_N = self._table[rows_N]
        valid_N = content_N["checksum"] == self._checksums(rows_N, content_N["words"])
        self.num_corrupt += int(np.count_nonzero(content_N["checksum"][~valid_N]))
        return content_N["words"], valid_N

    def is_written(self, rows_N: Rows) -> NDArray[np.bool_]:
        """Which of the rows have been written; whether they are valid only `read` checks."""
        written_N: NDArray[np.bool_] = self._table["checksum"][rows_N] != 0
        return written_N

    def write(self, rows_N: Rows, words_NW: Words) -> None:
        """Write rows.

        Raises:
            OSError: The disk is full, or the file is read-only; some of the rows may have been written.
        """
        content_N = np.empty(len(rows_N), self._row)
        content_N["words"], content_N["checksum"] = words_NW, self._checksums(rows_N, words_NW)
        size, content = self._row.itemsize, content_N.tobytes()
        for i, row in enumerate(rows_N.tolist()):
            os.pwrite(self._file, content[i * size : (i + 1) * size], row * size)

    def _checksums(self, rows_N: Rows, words_NW: Words) -> NDArray[np.uint32]:
        # Odd factors: a change of a single word always changes the sum. The hash mixes all its bits into the 32 stored.
        sums_N = (words_NW * self._factors).sum(axis=1)
        hashes_N = random_bits(CHECK, index=sums_N ^ random_bits(CHECK, index=rows_N)) >> np.uint64(32)
        checksums_N: NDArray[np.uint32] = np.maximum(hashes_N, 1).astype(np.uint32)  # 0 marks a row never written
        return checksums_N

    def _open(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            file = os.open(self.path, os.O_RDONLY)  # another user's teacher: its cache is used read-only
        weakref.finalize(self, os.close, file)
        if os.fstat(file).st_size < self.size:
            fcntl.flock(file, fcntl.LOCK_EX)  # else two processes that extend it at once could truncate it
            length = os.fstat(file).st_size
            self.was_truncated = 0 < length < self.size
            if length < self.size:
                os.ftruncate(file, self.size)
            fcntl.flock(file, fcntl.LOCK_UN)
        return file
