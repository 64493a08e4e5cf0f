"""The cached teacher: its outputs are stored beside its weights, and the network is run on each view only once.

A training image has a finite number of views, and a frozen network always returns the same output for a view. So each
batch is looked up, the network is run on the rows that are missing, and its output is stored for this run and for all
later ones, whatever their student, loss or optimizer. Outputs are rounded to float16 before they are used, whether they
were cached or have just been computed, so the cache's state has no influence on a run's results.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..files import read_json, write_json
from ..logs import log
from ..types import Batch, Output, Part, Pipeline, Views
from .encoding import Encoding
from .live import LiveTeacher
from .row_file import RowFile, Rows
from .row_store import DeviceRowStore, FileRowStore, RowStore

KEY_FILE = "about.json"  # in each cache's folder: all that its rows depend on; the folder's name is its hash
NUM_TIMED = 3  # forward passes, for the estimate of a run's time
NUM_VERIFIED = 16  # cached rows that are computed again at the start of a run
MAX_PRECOMPUTE_BATCH_SIZE = 256
MAX_COPY_BYTES = 256 * 10**6  # of the rows of a run that are copied into memory; a GPU takes a quarter of what is free
# Largest distance (see `Encoding.distance`) between a cached row and the same one computed again: the order of sums
# changes with the number of threads and the batch size. Outputs for two different images differ by far more.
TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class CachedPart:
    """How and where one part of the output is cached."""

    encoding: Encoding
    file: RowFile
    store: RowStore


class CachedTeacher:
    """Returns cached outputs, and runs the network on the images whose outputs are missing.

    Args:
        live: The network.
        parts: The parts of the output that are cached; the others are empty.
        views: Which view of which image a row stands for.
        needed_rows: The rows that the run will read, sorted, without duplicates.
        tolerance: Largest distance between a cached row and the same one computed again; see `Encoding.distance`.
        batch_size: Images at a time, at most, on which the network is run ahead of an epoch.
    """

    def __init__(
        self,
        live: LiveTeacher,
        parts: Mapping[Part, CachedPart],
        views: Views,
        needed_rows: Rows,
        *,
        tolerance: float,
        batch_size: int = MAX_PRECOMPUTE_BATCH_SIZE,
    ) -> None:
        self.batch_size = min(batch_size, MAX_PRECOMPUTE_BATCH_SIZE)
        self.live, self.parts, self.views, self.needed_rows, self.tolerance = live, parts, views, needed_rows, tolerance
        self.num_queries = 0
        self._can_write, self._has_warned_of_corrupt_rows = True, False
        self._epoch_is_cached = False  # all rows of the epoch are sure to be valid: none needs to be looked for
        self.num_missing = self._count_missing()

    @property
    def num_forwards(self) -> int:
        return self.live.num_forwards

    def __call__(self, batch: Batch) -> Output:
        self.num_queries += len(batch.index)
        return self._look_up_or_compute(batch)

    def _look_up_or_compute(self, batch: Batch) -> Output:
        rows_N = self.views.row(batch.index, batch.view)
        values, valid_N = self._look_up(rows_N)
        if not self._epoch_is_cached and not valid_N.all():
            for part in self.parts.values():  # another process may have cached them meanwhile
                part.store.refresh(rows_N[~valid_N].cpu().numpy())
            values, valid_N = self._look_up(rows_N)
            if not valid_N.all():
                self._compute_missing(values, ~valid_N, batch)
        empty_N0 = batch.labels.new_empty(len(rows_N), 0, dtype=torch.float32)
        return Output(logits=values.get("logits", empty_N0), embedding=values.get("embedding", empty_N0))

    def _look_up(self, rows_N: Tensor) -> tuple[dict[Part, Tensor], Tensor]:
        """The decoded rows, and which of them are valid in every part."""
        stored = {name: part.store.read(rows_N) for name, part in self.parts.items()}
        values = {name: part.encoding.decode(stored[name].words) for name, part in self.parts.items()}
        return values, torch.stack([rows.valid for rows in stored.values()]).all(dim=0)

    def _compute_missing(self, values: dict[Part, Tensor], missing_N: Tensor, batch: Batch) -> None:
        """Run the network on the missing rows, put its output into `values`, and cache it."""
        self._warn_of_corrupt_rows()
        missing = batch if missing_N.all() else select(batch, missing_N)
        output = self.live(missing)
        rows_M = self.views.row(missing.index, missing.view)
        for name, part in self.parts.items():
            computed_MD: Tensor = getattr(output, name)
            words_MW = part.encoding.encode(computed_MD)
            decoded_MD = part.encoding.decode(words_MW)
            fits_M = decoded_MD.isfinite().all(dim=1)  # rows that float16 cannot represent are computed every time
            values[name][missing_N] = torch.where(fits_M[:, None], decoded_MD, computed_MD.float())
            if self._can_write:
                self._write(part, rows_M[fits_M], words_MW[fits_M])

    def _write(self, part: CachedPart, rows_M: Tensor, words_MW: Tensor) -> None:
        try:
            part.store.write(rows_M, words_MW)
        except OSError as error:
            self._can_write = False
            log.warning("%s: %s; no more teacher outputs are cached in this run", part.file.path, error.strerror)

    def _warn_of_corrupt_rows(self) -> None:
        for part in self.parts.values():
            if part.file.num_corrupt and not self._has_warned_of_corrupt_rows:
                log.warning("%s: rows with a wrong checksum were found; they are computed again", part.file.path)
                self._has_warned_of_corrupt_rows = True

    def precompute(self, data: Pipeline, epoch: int) -> Iterator[float]:
        """Run the network on the views of an epoch that are not cached, in random order; yields the progress in [0, 1].

        So runs that begin together share the work, as each skips what the others have cached meanwhile. Unbounded
        views, and images in files, are left to the training steps, as reading an image twice costs more than sharing
        the work saves.
        """
        if self.views.unbounded or not data.in_memory or not self._can_write:
            return
        self._epoch_is_cached, self.num_missing = False, self._count_missing()
        index_M, view_M = data.epoch_views(epoch)
        rows_M = self.views.row(index_M, view_M)
        missing = np.random.default_rng().permutation(np.flatnonzero(~self._is_cached(rows_M)))
        for start in range(0, len(missing), self.batch_size):
            chunk = missing[start : start + self.batch_size]
            chunk = chunk[~self._is_cached(rows_M[chunk])]
            if len(chunk) and self._can_write:
                self._look_up_or_compute(data.augmented_batch(index_M[chunk], view_M[chunk]))
            self.num_missing -= min(self.batch_size, len(missing) - start)  # by this process or by another one
            yield (start + self.batch_size) / len(missing)
        is_complete = [part.store.refresh(rows_M) for part in self.parts.values()]
        self._epoch_is_cached = all(is_complete)

    def seconds_remaining(self, batch: Batch) -> float:
        """An estimate of the time that running the network on the missing rows takes, measured on one batch."""
        if not self.num_missing:
            return 0.0
        sample = torch.arange(self.batch_size, device=batch.index.device) % len(batch.index)
        batch = select(batch, sample)  # of the size that outputs are computed in
        self.live(batch)  # warm-up
        seconds = []
        for _ in range(NUM_TIMED):
            start = time.perf_counter()
            self.live(batch).logits.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds) / self.batch_size * self.num_missing

    def sample_cached_views(self) -> tuple[Rows, Rows]:
        """Index and view of a few of the cached rows, to be verified."""
        cached = self._cached_rows()
        rows = cached[np.linspace(0, len(cached) - 1, min(NUM_VERIFIED, len(cached)), dtype=np.int64)]
        return rows % self.views.num_images, rows // self.views.num_images

    def verify(self, batch: Batch) -> None:
        """Compare the cached outputs for a batch with those that the network returns now.

        Raises:
            UserError: One differs by more than rounding; the message has both.
        """
        output = self.live.run_uncompiled(batch)
        rows_N = self.views.row(batch.index, batch.view)
        for name, part in self.parts.items():
            part.store.refresh(rows_N.cpu().numpy())
            words_NW, valid_N = part.store.read(rows_N)
            cached_ND = part.encoding.decode(words_NW)
            computed_ND = part.encoding.decode(part.encoding.encode(getattr(output, name)))
            is_wrong_N = valid_N & ~(part.encoding.distance(cached_ND, computed_ND) <= self.tolerance)
            if is_wrong_N.any():
                i = int(is_wrong_N.nonzero()[0])
                raise UserError(
                    f"{part.file.path}: image {int(batch.index[i])}, view {int(batch.view[i])}: "
                    f"cached {name} {_first_values(cached_ND[i])} differ from the network's "
                    f"{_first_values(computed_ND[i])}; remove {part.file.path.parent} to compute the cache again"
                )

    def _count_missing(self) -> int:
        return len(self.needed_rows) - len(self._cached_rows())

    def _cached_rows(self) -> Rows:
        return self.needed_rows[self._is_cached(self.needed_rows)]

    def _is_cached(self, rows_N: Rows) -> NDArray[np.bool_]:
        is_cached_N: NDArray[np.bool_] = np.logical_and.reduce(
            [part.file.is_written(rows_N) for part in self.parts.values()]
        )
        return is_cached_N


def open_cache(
    live: LiveTeacher,
    root: Path,
    *,
    key: dict[str, Any],
    encodings: Mapping[Part, Encoding],
    views: Views,
    needed_rows: Rows,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int = MAX_PRECOMPUTE_BATCH_SIZE,
) -> CachedTeacher:
    """A teacher whose outputs are cached in a folder below `root`, one for each key.

    Args:
        key: All that an output depends on beside the view, as plain values. `weights` and `digest` are among them; the
            caches of an earlier digest of the same weights are removed.
        batch_size: As of `CachedTeacher`.

    Raises:
        OSError: The cache can be neither written nor read.
    """
    cache_dir = root / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    _remove_outdated_caches(root, key)
    if not (cache_dir / KEY_FILE).exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_json(cache_dir / KEY_FILE, key)
    parts = {}
    for name, encoding in encodings.items():
        file = RowFile(cache_dir / encoding.file_name(name), num_rows=views.num_rows, width=encoding.width)
        if file.was_truncated and not views.can_grow:
            log.warning("%s: the file was truncated; missing rows are computed again", file.path)
        parts[name] = CachedPart(encoding, file, _open_store(file, needed_rows, device))
    return CachedTeacher(live, parts, views, needed_rows, tolerance=TOLERANCES[dtype], batch_size=batch_size)


def _remove_outdated_caches(root: Path, key: dict[str, Any]) -> None:
    for key_file in root.glob(f"*/{KEY_FILE}"):
        with suppress(UserError, KeyError, TypeError):  # removed by another process meanwhile, or not a cache
            other = read_json(key_file)
            if other["weights"] == key["weights"] and other["digest"] != key["digest"]:
                shutil.rmtree(key_file.parent, ignore_errors=True)


def _open_store(file: RowFile, needed_rows: Rows, device: torch.device) -> RowStore:
    free = torch.cuda.mem_get_info(device)[0] / 4 if device.type == "cuda" else MAX_COPY_BYTES
    if 2 * file.width * len(needed_rows) < free:
        return DeviceRowStore(file, needed_rows, device)
    return FileRowStore(file)


def unique_rows(views: Views, epoch_views: Iterable[tuple[Rows, Rows]]) -> Rows:
    """The rows of the (index, view) that epochs draw, sorted, without duplicates."""
    return np.unique(np.concatenate([views.row(index, view) for index, view in epoch_views]))


def select(batch: Batch, selected_N: Tensor) -> Batch:
    """Some samples of a batch, by a mask or by their positions."""
    part = Batch(*(tensor[selected_N] for tensor in batch))
    at_size = {side: images[selected_N] for side, images in batch.at_size.items()}
    return replace(part, images=part.images.contiguous(memory_format=torch.channels_last), at_size=at_size)


def _first_values(values_D: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values_D[:4].tolist()) + (", ...]" if len(values_D) > 4 else "]")
