"""The cached teacher: what a teacher said of a view is kept beside its weights, and never asked again.

A training image has a finite number of views, and a frozen network always says the same of one. So each batch is looked
up, the network is run on the rows that are missing, and what it says is kept for this run and for every later one,
whatever its student, loss or optimizer. Answers are rounded to float16 before they are used, kept or not, so a run
is the same whether it finds them or computes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..files import read_json, write_json
from ..logs import log
from ..types import Batch, Output, Part, Pipeline, Teacher, Views
from .encoding import Encoding
from .row_file import RowFile, Rows
from .row_store import DeviceRowStore, FileRowStore, RowStore

ABOUT = "about.json"  # in the folder of each cache: what its answers depend on
SAMPLE = 16  # kept answers that are computed again at the start of a run
PREPARED = 256  # images that the network is run on at once, ahead of an epoch
# How far a kept answer may be from the same one computed again, as a share of the largest logit or feature: the order
# of sums changes with the number of threads and images. Answers of two images differ by far more.
TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class CachedPart:
    """How and where one part of the output is kept."""

    coding: Encoding
    answers: RowFile
    shelf: RowStore


class CachedTeacher:
    """Answers with what is kept, and runs the network on the rest.

    Args:
        live: The network.
        kept: The parts of the output that are kept; the others are left empty.
        views: What rows of the answers stand for.
        wanted: The rows that the run will ask for, sorted, each once.
        tolerance: How far a kept answer may be from the same one computed again; see `Coding.distance`.
    """

    def __init__(
        self, live: Teacher, kept: Mapping[Part, CachedPart], views: Views, wanted: Rows, *, tolerance: float
    ) -> None:
        self.live, self.kept, self.views, self.wanted, self.tolerance = live, kept, views, wanted, tolerance
        self.num_queries = 0
        self._keeps, self._told_damage = True, False
        self._is_complete = False  # whether an epoch's answers are sure to be found, so that nobody need look
        self.num_missing = len(wanted) - len(self._kept_rows())

    @property
    def num_forwards(self) -> int:
        return self.live.num_forwards

    def __call__(self, batch: Batch) -> Output:
        self.num_queries += len(batch.index)
        return self._answer(batch)

    def _answer(self, batch: Batch) -> Output:
        rows_N = self.views.row(batch.index, batch.view)
        found = {part: each.shelf.read(rows_N) for part, each in self.kept.items()}
        said = {part: each.coding.decode(found[part].words) for part, each in self.kept.items()}
        if not self._is_complete:
            missing_N = ~torch.stack([each.whole for each in found.values()]).all(dim=0)
            if missing_N.any():
                self._fill(said, missing_N, batch)
        logits = said["logits"] if "logits" in said else batch.labels.new_empty(len(rows_N), 0, dtype=torch.float32)
        return Output(logits=logits, embedding=said.get("embedding", logits[:, :0]))

    def _fill(self, said: dict[Part, Tensor], missing_N: Tensor, batch: Batch) -> None:
        """Run the network on the missing rows, put what it says into `said`, and keep it."""
        for damaged in [each.answers for each in self.kept.values() if each.answers.num_damaged]:
            if not self._told_damage:
                log.warning("%s has damaged rows: they are computed again", damaged.path)
            self._told_damage = True
        missing = batch if missing_N.all() else chosen(batch, missing_N)
        output = self.live(missing)
        rows_M = self.views.row(missing.index, missing.view)
        for part, each in self.kept.items():
            fresh_MD: Tensor = getattr(output, part)
            words_MW = each.coding.encode(fresh_MD)
            decoded_MD = each.coding.decode(words_MW)
            fits_M = decoded_MD.isfinite().all(dim=1)  # what float16 cannot hold is computed each time
            said[part][missing_N] = torch.where(fits_M[:, None], decoded_MD, fresh_MD.float())
            if self._keeps:
                self._keep(each, rows_M[fits_M], words_MW[fits_M])

    def _keep(self, kept: CachedPart, rows_M: Tensor, words_MW: Tensor) -> None:
        try:
            kept.shelf.write(rows_M, words_MW)
        except OSError as error:
            self._keeps = False
            log.warning("%s: %s; the teacher's answers are not kept any more", kept.answers.path, error.strerror)

    def prepare(self, data: Pipeline, epoch: int) -> Iterator[float]:
        """Run the network on the views of an epoch whose answers are missing, in no order.

        So runs that begin together share the work, each asking on after what the others have kept meanwhile. Views
        without end are left to the steps, for reading an image twice costs more.
        """
        if self.views.unbounded or not self._keeps:
            return
        index_M, view_M = data.epoch_views(epoch)
        rows_M = self.views.row(index_M, view_M)
        missing = np.random.default_rng().permutation(np.flatnonzero(~self._are_kept(rows_M)))
        for start in range(0, len(missing), PREPARED):
            chunk = missing[start : start + PREPARED]
            chunk = chunk[~self._are_kept(rows_M[chunk])]
            if len(chunk) and self._keeps:
                self._answer(data.augmented_batch(index_M[chunk], view_M[chunk]))
            yield (start + PREPARED) / len(missing)
        sure = [each.shelf.refresh(rows_M) for each in self.kept.values()]
        self._is_complete = all(sure)

    def seconds_remaining(self, batch: Batch) -> float:
        """What running the network on the wanted rows that are missing takes about, timed on one batch."""
        if not self.num_missing:
            return 0.0
        self.live(batch)  # the first call also pays for warming up
        start = time.perf_counter()
        self.live(batch).logits.sum().item()  # waits for the device
        return (time.perf_counter() - start) / len(batch.index) * self.num_missing

    def sample(self) -> tuple[Rows, Rows]:
        """Index and view of some of the wanted views whose answers are kept."""
        kept = self._kept_rows()
        rows = kept[np.linspace(0, len(kept) - 1, min(SAMPLE, len(kept)), dtype=np.int64)]
        return rows % self.views.num_images, rows // self.views.num_images

    def check(self, sample: Batch) -> None:
        """Compare kept answers with what the network says now.

        Raises:
            UserError: One differs by more than rounding; it names both.
        """
        output = self.live(sample)
        rows_N = self.views.row(sample.index, sample.view)
        for part, each in self.kept.items():
            words_NW, whole_N = each.shelf.read(rows_N)
            kept_ND = each.coding.decode(words_NW)
            now_ND = each.coding.decode(each.coding.encode(getattr(output, part)))
            wrong_N = whole_N & ~(each.coding.distance(kept_ND, now_ND) <= self.tolerance)
            if wrong_N.any():
                place = int(wrong_N.nonzero()[0])
                kept, now = _start(kept_ND[place]), _start(now_ND[place])
                raise UserError(
                    f"{each.answers.path}: for image {int(sample.index[place])}, view {int(sample.view[place])}, "
                    f"{part} {kept} are kept, but the teacher says {now}; "
                    f"remove {each.answers.path.parent} to have all made anew"
                )

    def _kept_rows(self) -> Rows:
        return self.wanted[self._are_kept(self.wanted)]

    def _are_kept(self, rows_N: Rows) -> NDArray[np.bool_]:
        there: NDArray[np.bool_] = np.logical_and.reduce(
            [each.answers.are_there(rows_N) for each in self.kept.values()]
        )
        return there


def open_cache(
    live: Teacher,
    folder: Path,
    *,
    about: dict[str, Any],
    codings: Mapping[Part, Encoding],
    views: Views,
    wanted: Rows,
    dtype: torch.dtype,
    device: torch.device,
) -> CachedTeacher:
    """A teacher whose answers are kept under `folder`, in a place of their own for all that `about` says.

    Args:
        about: All that an answer depends on beside the view: plain values. `weights` and `digest` among them; what is
            kept for an earlier digest of the same weights is removed.

    Raises:
        OSError: Nothing can be kept or read there.
    """
    text = json.dumps(about, sort_keys=True)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    for other in folder.glob(f"*/{ABOUT}"):
        with suppress(UserError, KeyError, TypeError):  # removed meanwhile, or not ours
            theirs = read_json(other)
            if theirs["weights"] == about["weights"] and theirs["digest"] != about["digest"]:
                shutil.rmtree(other.parent, ignore_errors=True)
    if not (place / ABOUT).exists():
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / ABOUT, about)
    kept = {}
    for part, coding in codings.items():
        answers = RowFile(place / coding.file_name(part), num_rows=views.num_rows, width=coding.width)
        if answers.was_cut_short and not views.unbounded:
            log.warning("%s was cut short; what is missing is computed again", answers.path)
        kept[part] = CachedPart(coding, answers, _shelf(answers, wanted, device))
    return CachedTeacher(live, kept, views, wanted, tolerance=TOLERANCES[dtype])


def _shelf(answers: RowFile, wanted: Rows, device: torch.device) -> RowStore:
    if device.type == "cuda" and 2 * answers.width * len(wanted) < torch.cuda.mem_get_info(device)[0] / 4:
        return DeviceRowStore(answers, wanted, device)
    return FileRowStore(answers)


def wanted_rows(views: Views, drawn: Iterable[tuple[Rows, Rows]]) -> Rows:
    """The rows of the (index, view) that the epochs draw, sorted, each once."""
    return np.unique(np.concatenate([views.row(index, view) for index, view in drawn]))


def chosen(batch: Batch, chosen_N: Tensor) -> Batch:
    """Some samples of a batch."""
    part = Batch(*(tensor[chosen_N] for tensor in batch))
    return part._replace(images=part.images.contiguous(memory_format=torch.channels_last))


def _start(said_D: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in said_D[:4].tolist()) + (", ...]" if len(said_D) > 4 else "]")
