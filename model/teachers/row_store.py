"""Where kept answers are looked up: in their file, or in a copy on the device."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .row_file import RowFile, Rows

CHUNK = 100_000  # rows that are copied at once


class StoredRows(NamedTuple):
    words: Tensor  # (N, width) int16
    whole: Tensor  # (N,) bool: the others are not kept yet


class RowStore(Protocol):
    """The kept answers of one part of the output."""

    def read(self, rows_N: Tensor) -> StoredRows: ...

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None: ...

    def refresh(self, rows: Rows) -> bool:
        """Fetch what other processes have kept of some wanted rows; whether all of them are sure to be found then."""


class FileRowStore:
    """Reads the file at every batch: for a CPU, to which a memory map is memory."""

    def __init__(self, answers: RowFile) -> None:
        self.answers = answers

    def read(self, rows_N: Tensor) -> StoredRows:
        words_NW, whole_N = self.answers.read(rows_N.cpu().numpy())
        device = rows_N.device
        return StoredRows(torch.from_numpy(words_NW.view(np.int16)).to(device), torch.from_numpy(whole_N).to(device))

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None:
        self.answers.write(rows_N.cpu().numpy(), words_NW.cpu().numpy().view(np.uint16))

    def refresh(self, rows: Rows) -> bool:
        return False  # a row may break before it is read


class DeviceRowStore:
    """Holds a copy of all rows that a run wants: for a device that should not wait for the host.

    Args:
        wanted: Sorted, each once.
    """

    def __init__(self, answers: RowFile, wanted: Rows, device: torch.device) -> None:
        self.file, self.device = FileRowStore(answers), device
        self.wanted_M = torch.from_numpy(wanted).to(device)
        self.words_MW = torch.zeros(len(wanted), answers.width, dtype=torch.int16, device=device)
        self.whole_M = torch.zeros(len(wanted), dtype=torch.bool, device=device)
        self.refresh(wanted)

    def read(self, rows_N: Tensor) -> StoredRows:
        place_N = self._places(rows_N)
        return StoredRows(self.words_MW[place_N], self.whole_M[place_N] & (self.wanted_M[place_N] == rows_N))

    def write(self, rows_N: Tensor, words_NW: Tensor) -> None:
        place_N = self._places(rows_N)
        wanted_N = self.wanted_M[place_N] == rows_N
        self.words_MW[place_N[wanted_N]] = words_NW[wanted_N]
        self.whole_M[place_N[wanted_N]] = True
        self.file.write(rows_N, words_NW)

    def refresh(self, rows: Rows) -> bool:
        place_N = self._places(torch.from_numpy(rows).to(self.device))
        for lacking_N in torch.split(place_N[~self.whole_M[place_N]], CHUNK):
            self.words_MW[lacking_N], self.whole_M[lacking_N] = self.file.read(self.wanted_M[lacking_N])
        return bool(self.whole_M[place_N].all())

    def _places(self, rows_N: Tensor) -> Tensor:
        return torch.searchsorted(self.wanted_M, rows_N).clamp_(max=len(self.wanted_M) - 1)
