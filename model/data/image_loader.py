"""Batches of images, read by worker processes, which hand them on in pieces that fit into shared memory.

The processes live as long as the loader, through all epochs and splits. They have no state: a piece says what to read.
In a container, shared memory often has 64 MB. What does not fit there is an error of the thread that fills a worker's
queue, which nobody gets: the batch would never come. So pieces are small, and they are shared before they are queued.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..cpus import chosen_threads, usable_cpus
from ..errors import READ_WITHOUT_WORKERS, RunFailed, UserError
from ..logs import format_bytes, log
from ..types import Split

if TYPE_CHECKING:
    from .image_reader import BatchReader

MAX_WORKERS = 8  # by default
PIECE_BYTES = 8 * 2**20
PREFETCHED = 2  # pieces of each worker that are read ahead
SHARE_OF_FREE = 0.25  # of shared memory; other runs may look for free memory at the same time
SHARED_MEMORY = Path("/dev/shm")
Samples = tuple[NDArray[np.integer], NDArray[np.integer]]  # index and view of the images of a batch
Piece = tuple[Split, NDArray[np.integer], NDArray[np.integer]]


def default_workers(device: torch.device) -> int:
    """One worker per CPU of this process, which computes on them, too, without a GPU; none where it has only one."""
    cpus = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes share them
    if device.type == "cpu":
        cpus = min(cpus, chosen_threads() or cpus)
    return min(MAX_WORKERS, cpus) if cpus > 1 else 0


class ImageLoader:
    """Reads batches of the splits of a data set.

    Args:
        readers: What reads the images of each split.
        num_workers: Number of processes that read at most: fewer where shared memory is too small for more.
        device: Where the pixels are wanted.
    """

    def __init__(self, readers: Mapping[Split, BatchReader], *, num_workers: int, device: torch.device) -> None:
        self.readers, self.num_workers, self.device = readers, num_workers, device
        self._pieces: list[Piece] = []  # of the epoch that the lasting workers read
        self._lasting: DataLoader[tuple[Tensor, Exception | None]] | None = None
        self._is_reading = False

    def read(self, split: Split, batches: Sequence[Samples], *, num_workers: int | None = None) -> Iterator[Tensor]:
        """The pixels of each batch as the readers return them, uint8 (N, P), on the device.

        Raises:
            UserError: An image cannot be read.
            RunFailed: Shared memory is full.
        """
        image_bytes = self.readers[split].num_values
        most_workers = self.num_workers if num_workers is None else num_workers
        workers, images_per_piece = fit_into_shared_memory(image_bytes, most_workers)
        pieces = [
            (split, index[start : start + images_per_piece], view[start : start + images_per_piece])
            for index, view in batches
            for start in range(0, max(1, len(index)), images_per_piece)
        ]
        received = self._receive(pieces, workers)
        for index, _ in batches:
            pixels_NP = next(received)
            if (filled := len(pixels_NP)) < len(index):
                first, pixels_NP = pixels_NP, pixels_NP.new_empty(len(index), *pixels_NP.shape[1:])
                pixels_NP[:filled] = first
                del first  # its shared memory is needed for others
            while filled < len(index):
                piece_NP = next(received)
                pixels_NP[filled : filled + len(piece_NP)] = piece_NP
                filled += len(piece_NP)
            yield pixels_NP

    def _receive(self, pieces: list[Piece], num_workers: int) -> Iterator[Tensor]:
        if not num_workers or self._is_reading:  # as the lasting workers read one epoch at a time
            yield from self._on_device(self._loader(pieces, num_workers))
            return
        if self._lasting is None or self._lasting.num_workers != num_workers:
            self._lasting = self._loader(self._pieces, num_workers, persistent_workers=True)
        self._pieces[:] = pieces
        self._is_reading = True
        try:
            yield from self._on_device(self._lasting)
        finally:
            self._is_reading = False

    def _loader(
        self, pieces: list[Piece], num_workers: int, *, persistent_workers: bool = False
    ) -> DataLoader[tuple[Tensor, Exception | None]]:
        return DataLoader(
            PieceReader(self.readers),
            sampler=pieces,
            batch_size=None,  # an item of the reader is a piece already
            num_workers=num_workers,
            prefetch_factor=PREFETCHED if num_workers else None,
            persistent_workers=persistent_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a number from it: the run's generator must not advance
        )

    def _on_device(self, loader: DataLoader[tuple[Tensor, Exception | None]]) -> Iterator[Tensor]:
        for pixels_NP, error in loader:
            if error is not None:
                raise error
            yield pixels_NP.to(self.device, non_blocking=self.device.type == "cuda")  # from pinned memory


class PieceReader(Dataset[tuple[Tensor, "Exception | None"]]):
    """Reads a piece of a batch; a worker puts it into shared memory. An item is the pixels, and what went wrong."""

    def __init__(self, readers: Mapping[Split, BatchReader]) -> None:
        self.readers = readers

    def __getitem__(self, piece: Piece) -> tuple[Tensor, Exception | None]:
        split, index, view = piece
        pixels_NP, message = self.readers[split][index, view]
        if message:
            return pixels_NP, UserError(message)
        try:
            if get_worker_info() is not None:
                pixels_NP.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:
            return torch.empty(0), RunFailed(f"{SHARED_MEMORY} is full, or cannot be used: {READ_WITHOUT_WORKERS}")
        return pixels_NP, None


def fit_into_shared_memory(image_bytes: int, num_workers: int) -> tuple[int, int]:
    """How many workers, of this number at most, can hand on pieces of how many images each."""
    free = free_shared_memory()
    for workers in range(num_workers, 0, -1):
        piece_bytes = SHARE_OF_FREE * free / (PREFETCHED * workers + 1)  # one is being used
        if image_bytes <= piece_bytes:
            if workers < num_workers:
                _log_few_workers(workers, num_workers)
            return workers, max(1, int(min(PIECE_BYTES, piece_bytes) // image_bytes))
    if num_workers:
        _log_few_workers(0, num_workers)
    return 0, sys.maxsize


@functools.cache  # once, not in every epoch
def _log_few_workers(workers: int, wanted: int) -> None:
    number = f"{workers} of {wanted} worker processes read" if workers else "the training process itself reads"
    log.warning("%s images, as %s has %s free", number, SHARED_MEMORY, format_bytes(int(free_shared_memory())))


def free_shared_memory() -> float:
    """Bytes through which processes can hand on tensors; infinite where a system does not limit them."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0.0 if sys.platform == "linux" else math.inf
    return status.f_bavail * status.f_frsize if status.f_blocks else math.inf
