"""Batches of images from workers: pieces, shared memory, workers that die."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.commands.signals import one_line_errors
from model.config.folder import Folder
from model.data import image_loader
from model.data.image_loader import ImageLoader, default_workers, fit_into_shared_memory
from model.errors import RunFailed
from model.logs import logging_to

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
CPU = torch.device("cpu")
MB = 2**20
SIZE = 4


class Reader:
    """Images whose pixels are all their index."""

    num_values = SIZE * SIZE * 3

    def __getitem__(self, batch: Any) -> tuple[Tensor, str]:
        index_N, _ = batch
        return torch.tensor(index_N, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIZE, SIZE, 3).contiguous(), ""


class DyingReader(Reader):
    def __getitem__(self, batch: Any) -> tuple[Tensor, str]:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(batch)


def batches_of(*sizes: int) -> list[Any]:
    bounds = np.cumsum([0, *sizes])
    return [(np.arange(start, stop), np.zeros(stop - start)) for start, stop in pairwise(bounds)]


def read(reader: Reader, batches: list[Any], num_workers: int) -> list[list[int]]:
    """The value of each image of each batch."""
    return values(loader_of(reader, num_workers).read("train", batches))


def loader_of(reader: Reader, num_workers: int) -> ImageLoader:
    return ImageLoader({"train": reader, "test": reader}, num_workers=num_workers, device=CPU)  # type: ignore[dict-item]


def values(pixels: Iterator[Tensor]) -> list[list[int]]:
    return [batch_NHWC[:, 0, 0, 0].tolist() for batch_NHWC in pixels]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("images_per_piece", [1, 3, 4, 100])
def test_batches_are_put_together_from_pieces(
    monkeypatch: pytest.MonkeyPatch, num_workers: int, images_per_piece: int
) -> None:
    monkeypatch.setattr(image_loader, "PIECE_BYTES", images_per_piece * SIZE * SIZE * 3)
    assert read(Reader(), batches_of(4, 4, 1), num_workers) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("free", "image_bytes", "num_workers", "expected"),
    [
        (math.inf, MB, 4, (4, 8)),
        (64 * MB, MB, 4, (4, 1)),  # a quarter for nine pieces: 1.8 MB each
        (64 * MB, MB // 8, 4, (4, 14)),
        (64 * MB, 3 * MB, 4, (2, 1)),  # five pieces of 3.2 MB
        (64 * MB, 6 * MB, 4, (0, None)),
        (0, 1, 4, (0, None)),
        (math.inf, 20 * MB, 4, (4, 1)),
        (64 * MB, MB, 0, (0, None)),
    ],
)
def test_pieces_of_all_workers_fit_into_a_quarter_of_the_free_shared_memory(
    monkeypatch: pytest.MonkeyPatch, free: float, image_bytes: int, num_workers: int, expected: tuple[int, int | None]
) -> None:
    monkeypatch.setattr(image_loader, "free_shared_memory", lambda: free)
    workers, images_per_piece = fit_into_shared_memory(image_bytes, num_workers)
    assert workers == expected[0]
    assert expected[1] is None or images_per_piece == expected[1]


class ReaderWithProcess(Reader):
    """Images whose pixels are all the number of the process that reads them, its last digits."""

    def __getitem__(self, batch: Any) -> tuple[Tensor, str]:
        return torch.full((len(batch[0]), SIZE, SIZE, 3), os.getpid() % 251, dtype=torch.uint8), ""


def test_workers_live_from_epoch_to_epoch_and_read_all_splits() -> None:
    loader = loader_of(ReaderWithProcess(), num_workers=2)
    epochs = [values(loader.read(split, batches_of(3, 3, 3, 3))) for split in ("train", "test", "train")]
    processes = {value for epoch in epochs for batch in epoch for value in batch}
    assert len(processes) <= 2
    assert os.getpid() % 251 not in processes
    assert len(multiprocessing.active_children()) == 2


def test_workers_end_with_their_loader() -> None:
    loader = loader_of(Reader(), num_workers=2)
    values(loader.read("train", batches_of(3)))
    unfinished = loader.read("train", batches_of(3, 3, 3))
    next(unfinished)
    assert multiprocessing.active_children()
    del loader, unfinished
    gc.collect()
    assert not multiprocessing.active_children()


def test_after_an_epoch_that_was_broken_off_the_next_is_whole() -> None:
    loader = loader_of(Reader(), num_workers=2)
    for _ in range(3):
        unfinished = loader.read("train", batches_of(*[2] * 10))
        assert next(unfinished)[:, 0, 0, 0].tolist() == [0, 1]
        unfinished.close()  # type: ignore[attr-defined]
        assert values(loader.read("test", batches_of(1, 2))) == [[0], [1, 2]]


def test_two_epochs_may_be_read_at_once() -> None:
    loader = loader_of(Reader(), num_workers=1)
    one, other = loader.read("train", batches_of(2, 2, 2)), loader.read("test", batches_of(1, 1, 1))
    batches = [[batch[:, 0, 0, 0].tolist() for batch in pair] for pair in zip(one, other, strict=True)]
    assert batches == [[[0, 1], [0]], [[2, 3], [1]], [[4, 5], [2]]]


def test_too_little_shared_memory_is_logged_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = iter((0.5 * MB, 0.5 * MB, 0.4 * MB))
    monkeypatch.setattr(image_loader, "free_shared_memory", lambda: next(free))
    image_loader._log_few_workers.cache_clear()
    with logging_to(tmp_path / "log"):
        for _ in range(2):
            fit_into_shared_memory(MB, 3)
    line = (tmp_path / "log").read_text().rstrip("\n")
    assert line.endswith("the training process itself reads images, as /dev/shm has 524 kB free")
    assert "\n" not in line


def test_full_shared_memory_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", fail)
    with pytest.raises(RunFailed, match=r'^/dev/shm is full, .*"num_workers": 0'):
        read(Reader(), batches_of(2), num_workers=1)


def test_a_worker_that_dies_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFailed, match=r'DataLoader worker .*"num_workers": 0 in "dataset"'),
        one_line_errors(Folder(tmp_path)),
    ):
        read(DyingReader(), batches_of(2), num_workers=1)


@pytest.mark.parametrize(
    ("cpus", "device", "environment", "expected"),
    [
        (1, "cpu", {}, 0),
        (4, "cpu", {}, 4),
        (64, "cpu", {}, 8),
        (4, "cpu", {"OMP_NUM_THREADS": "1"}, 0),
        (4, "cpu", {"OMP_NUM_THREADS": "16"}, 4),
        (16, "cuda", {"OMP_NUM_THREADS": "1"}, 8),
        (16, "cuda", {"LOCAL_WORLD_SIZE": "4"}, 4),
    ],
)
def test_number_of_workers_follows_the_cpus_of_the_process(
    monkeypatch: pytest.MonkeyPatch, cpus: int, device: str, environment: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(image_loader, "usable_cpus", lambda: cpus)
    assert default_workers(torch.device(device)) == expected
