"""Where cached rows are looked up: in a copy on the device, or in their file."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .row_file import RowFile, Rows

CHUNK = 100_000  # rows that are copied to the device at once


class StoredRows(NamedTuple):
    words: Tensor  # (N, width) int16
    valid: Tensor  # (N,) bool; words of the other rows are meaningless


class RowStore(Protocol):
    """The cached rows of one part of the output."""

    def read(self, rows_N: Tensor) -> StoredRows: ...

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None: ...

    def refresh(self, rows: Rows) -> bool:
        """Load rows that other processes have written since; returns whether all of `rows` are sure to be valid now."""


class FileRowStore:
    """Reads the file at every batch, where a copy would take too much memory."""

    def __init__(self, file: RowFile) -> None:
        self.file = file

    def read(self, rows_N: Tensor) -> StoredRows:
        words_NW, valid_N = self.file.read(rows_N.cpu().numpy())
        device = rows_N.device
        return StoredRows(torch.from_numpy(words_NW.view(np.int16)).to(device), torch.from_numpy(valid_N).to(device))

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None:
        self.file.write(rows_N.cpu().numpy(), words_NW.cpu().numpy().view(np.uint16))

    def refresh(self, rows: Rows) -> bool:
        return False  # a row may be corrupted before it is read


class DeviceRowStore:
    """A copy of all rows that a run needs, on the device: a GPU need not wait for the host, and a CPU checks rows once.

    Args:
        needed_rows: The rows that are copied; sorted, without duplicates.
    """

    def __init__(self, file: RowFile, needed_rows: Rows, device: torch.device) -> None:
        self.file, self.device = FileRowStore(file), device
        self.rows_M = torch.from_numpy(needed_rows).to(device)
        self.words_MW = torch.zeros(len(needed_rows), file.width, dtype=torch.int16, device=device)
        self.valid_M = torch.zeros(len(needed_rows), dtype=torch.bool, device=device)
        self.refresh(needed_rows)

    def read(self, rows_N: Tensor) -> StoredRows:
        slots_N = self._slots(rows_N)
        return StoredRows(self.words_MW[slots_N], self.valid_M[slots_N] & (self.rows_M[slots_N] == rows_N))

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None:
        slots_N = self._slots(rows_N)
        has_slot_N = self.rows_M[slots_N] == rows_N
        self.words_MW[slots_N[has_slot_N]] = words_NW[has_slot_N]
        self.valid_M[slots_N[has_slot_N]] = True
        self.file.write(rows_N, words_NW)

    def refresh(self, rows: Rows) -> bool:
        slots_N = self._slots(torch.from_numpy(rows).to(self.device))
        for missing_N in torch.split(slots_N[~self.valid_M[slots_N]], CHUNK):
            self.words_MW[missing_N], self.valid_M[missing_N] = self.file.read(self.rows_M[missing_N])
        return bool(self.valid_M[slots_N].all())

    def _slots(self, rows_N: Tensor) -> Tensor:
        """The position of each row in the copy; that of another row where the copy does not have it."""
        return torch.searchsorted(self.rows_M, rows_N).clamp_(max=len(self.rows_M) - 1)
