"""Kept answers: a sparse file with a row for every view of every training image, shared by all processes.

A row is words of 16 bits and a check, a hash of the words and of the row's number. A row whose check does not fit does
not count: one that was never written, half written when its process was killed, read while another process writes it,
hit by a broken disk, or of another place. So no lock is needed, and any number of processes read and add rows at once.
Rows are read through a memory map and written by pwrite: on a full disk, writing into a map's hole kills the process.
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

Rows = NDArray[np.integer]
Words = NDArray[np.uint16]  # (N, width)


class RowFile:
    """The rows of one file.

    Args:
        path: The file; made where it is missing, lengthened where it is too short.
        num_rows: Rows that it has room for.
        width: Words of a row.

    Raises:
        OSError: The file can be neither opened nor made.
    """

    def __init__(self, path: Path, *, num_rows: int, width: int) -> None:
        self.path, self.num_rows, self.width = path, num_rows, width
        self._row = np.dtype([("check", "<u4"), ("words", "<u2", (width,))])
        self.was_cut_short = False
        self.num_damaged = 0  # rows that were read and are there, but not whole
        self._file = self._opened()
        self._map = mmap.mmap(self._file, self.size, prot=mmap.PROT_READ)
        self._table = np.frombuffer(self._map, self._row)
        self._factors = random_bits(CHECK, width, index=np.arange(width)) | np.uint64(1)

    @property
    def size(self) -> int:
        """Bytes of the file when every row is kept."""
        return self.num_rows * self._row.itemsize

    def read(self, rows_N: Rows) -> tuple[Words, NDArray[np.bool_]]:
        """The words of the rows, (N, width), and which of them are whole, (N,)."""
        found_N = self._table[rows_N]
        whole_N = found_N["check"] == self._checks(rows_N, found_N["words"])
        self.num_damaged += int(np.count_nonzero(found_N["check"][~whole_N]))
        return found_N["words"], whole_N

    def are_there(self, rows_N: Rows) -> NDArray[np.bool_]:
        """Which of the rows have been written; whether they are whole is found out when they are read."""
        there_N: NDArray[np.bool_] = self._table["check"][rows_N] != 0
        return there_N

    def write(self, rows_N: Rows, words_NW: Words) -> None:
        """Keep rows.

        Raises:
            OSError: The disk is full, or the file may not be written to; some rows may have been kept.
        """
        kept_N = np.empty(len(rows_N), self._row)
        kept_N["words"], kept_N["check"] = words_NW, self._checks(rows_N, words_NW)
        size, content = self._row.itemsize, kept_N.tobytes()
        for place, row in enumerate(rows_N.tolist()):
            os.pwrite(self._file, content[place * size : (place + 1) * size], row * size)

    def _checks(self, rows_N: Rows, words_NW: Words) -> NDArray[np.uint32]:
        # Odd factors: one word that changes always changes the sum. The hash mixes all bits into those that are kept.
        sums_N = (words_NW * self._factors).sum(axis=1)
        checks_N = random_bits(CHECK, index=sums_N ^ random_bits(CHECK, index=rows_N)) >> np.uint64(32)
        checks: NDArray[np.uint32] = np.maximum(checks_N, 1).astype(np.uint32)  # 0 is a row that was never written
        return checks

    def _opened(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            file = os.open(self.path, os.O_RDONLY)  # another user's teacher: what is kept there is read
        weakref.finalize(self, os.close, file)
        if os.fstat(file).st_size < self.size:
            fcntl.flock(file, fcntl.LOCK_EX)  # else two processes that lengthen it could cut it
            length = os.fstat(file).st_size
            self.was_cut_short = 0 < length < self.size
            if length < self.size:
                os.ftruncate(file, self.size)
            fcntl.flock(file, fcntl.LOCK_UN)
        return file
