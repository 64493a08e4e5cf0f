"""Batches of images, read by worker processes, which hand them on in pieces that fit into shared memory.

In a container, shared memory often has 64 MB. What does not fit there is an error of the thread that fills a worker's
queue, which nobody gets: the batch would never come. So pieces are small, and they are shared before they are queued.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence
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

if TYPE_CHECKING:
    from .image_reader import BatchReader

MAX_WORKERS = 8  # by default
PIECE_BYTES = 8 * 2**20
PREFETCHED = 2  # pieces of each worker that are read ahead
SHARE_OF_FREE = 0.25  # of shared memory; other runs may look for free memory at the same time
SHARED_MEMORY = Path("/dev/shm")
Samples = tuple[NDArray[np.integer], NDArray[np.integer]]  # index and view of the images of a batch


def default_workers(device: torch.device) -> int:
    """One worker per CPU of this process, which computes on them, too, without a GPU; none where it has only one."""
    cpus = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes share them
    if device.type == "cpu":
        cpus = min(cpus, chosen_threads() or cpus)
    return min(MAX_WORKERS, cpus) if cpus > 1 else 0


def read_batches(
    reader: BatchReader, batches: Sequence[Samples], *, num_workers: int, device: torch.device
) -> Iterator[Tensor]:
    """The pixels of each batch, uint8 (N, size, size, 3), on the device.

    Args:
        num_workers: At most; fewer where shared memory is too small for more.

    Raises:
        UserError: An image cannot be read.
        RunFailed: Shared memory is full.
    """
    num_workers, images_per_piece = fit_into_shared_memory(3 * reader.size**2, num_workers)
    pieces = [
        (index[start : start + images_per_piece], view[start : start + images_per_piece])
        for index, view in batches
        for start in range(0, max(1, len(index)), images_per_piece)
    ]
    loader = DataLoader(
        PieceReader(reader),
        sampler=pieces,
        batch_size=None,  # an item of the reader is a piece already
        num_workers=num_workers,
        prefetch_factor=PREFETCHED if num_workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a number from it: the run's generator must not advance
    )
    received = _on_device(loader, device)
    for index, _ in batches:
        pixels_NHWC = next(received)
        if (filled := len(pixels_NHWC)) < len(index):
            first, pixels_NHWC = pixels_NHWC, pixels_NHWC.new_empty(len(index), *pixels_NHWC.shape[1:])
            pixels_NHWC[:filled] = first
            del first  # its shared memory is needed for others
        while filled < len(index):
            piece_NHWC = next(received)
            pixels_NHWC[filled : filled + len(piece_NHWC)] = piece_NHWC
            filled += len(piece_NHWC)
        yield pixels_NHWC


def _on_device(loader: DataLoader[tuple[Tensor, Exception | None]], device: torch.device) -> Iterator[Tensor]:
    for pixels_NHWC, error in loader:
        if error is not None:
            raise error
        yield pixels_NHWC.to(device, non_blocking=device.type == "cuda")  # from pinned memory


class PieceReader(Dataset[tuple[Tensor, "Exception | None"]]):
    """Reads a piece of a batch; a worker puts it into shared memory. An item is the pixels, and what went wrong."""

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, piece: Samples) -> tuple[Tensor, Exception | None]:
        pixels_NHWC, message = self.reader[piece]
        if message:
            return pixels_NHWC, UserError(message)
        try:
            if get_worker_info() is not None:
                pixels_NHWC.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:
            return torch.empty(0), RunFailed(f"{SHARED_MEMORY} is full, or cannot be used: {READ_WITHOUT_WORKERS}")
        return pixels_NHWC, None


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
