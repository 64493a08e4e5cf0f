"""`--dry_run`: build everything, run one batch, tell what a run would do, write nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..build.data import build_source, split_options
from ..build.objective import build_objective, prepare_objective
from ..build.resolve import init_folder, params_of, teacher_folders
from ..build.runtime import Runtime
from ..build.teacher import build_untrained_teacher, has_cache, has_seen_val
from ..build.trainer import build_trainer, cost_of, open_data
from ..config.folder import Folder
from ..config.generations import first_generation
from ..config.params import Params
from ..data.memory import Arrays, Augmentation, MemoryPipeline
from ..logs import format_bytes, format_duration
from ..training.trainer import Trainer
from ..types import DataSource, Pipeline, SplitOptions
from .preflight import check_folder, check_params
from .provenance import peak_memory
from .train import missing_folders


def dry_run(folder: Folder, place: Runtime) -> str:
    """What `train.py` would do with this folder, several lines.

    Raises:
        UserError: As `train_folder` would.
    """
    params = check_folder(folder, place)
    if params.generations:
        told = f"{folder.name}: {folder.state()}, {params.generations} generations, each taught by the one before\n\n"
        return told + _told(folder, first_generation(params), place)
    return _told(folder, params, place)


def estimate_seconds(params: Params, path: Path, place: Runtime, *, threads: int) -> float | None:
    """About how long a run takes, from a few of its steps; None where its data is not here, or it has generations.

    Args:
        path: The params.json that is named in messages; teachers are looked for relative to its folder.
        threads: How many the run will have.

    Raises:
        UserError: As `train_folder` would.
    """
    params, folder = check_params(params, path, place), Folder(path.parent)
    source = build_source(params, place)
    if params.generations or not source.is_ready():
        return None
    torch.set_num_threads(threads)
    data = open_data(params, folder, source, place)
    with _untrained(folder, params, source, data, place) as trainer:
        return trainer.estimate_seconds(next(iter(data.train_batches(0, params.batch_size))))


def _told(folder: Folder, params: Params, place: Runtime) -> str:
    source = build_source(params, place)
    ready = source.is_ready()
    data = (
        open_data(params, folder, source, place)
        if ready
        else stand_in(source, params.batch_size, place, strong_view=split_options(params).strong_view)
    )
    with _untrained(folder, params, source, data, place) as trainer:
        batch = next(iter(data.train_batches(0, params.batch_size)))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            loss, terms, _ = trainer.compute_loss(trainer.student, batch, step=0)
        macs = counter.get_total_flops() // 2 // len(batch.labels)
        seconds = trainer.estimate_seconds(batch)
        memory = peak_memory(place.device)
    first = [(each, _estimate(each, place, data)) for each in _to_train(params, folder)]

    lines = [
        f"{folder.name}: {folder.state()}",
        "",
        json.dumps(params.model_dump(mode="json"), indent=2),
        "",
        f"student   {params.student.name}, {cost_of(params, source)}",
        *_teacher_lines(trainer, params, folder, place),
        *_init_lines(params, folder),
        *_term_lines(params, folder, data, place),
        f"data      {_sizes(data) if ready else 'not here yet: fetched first; random images stand in for it now'}",
        f"one batch loss {loss:.4f} ({', '.join(f'{name} {value:.4f}' for name, value in terms.items())})",
        f"forward   {macs:,} multiply-accumulates an image, teacher and loss terms included",
        f"memory    {format_bytes(memory)} at most in a few steps on {place.device.type}",
    ]
    if ready:
        lines += [
            f"steps     {trainer.num_epochs} epochs of {trainer.steps_per_epoch}, {trainer.total_steps} in all",
            f"time      about {format_duration(seconds)} on {place.device.type}, "
            f"{str(trainer.dtype).removeprefix('torch.')}",
        ]
    for each, estimate in first:
        about = f", about {format_duration(estimate)}" if ready else ""
        lines.append(f"first     {each.name} is trained{about}")
    return "\n".join([*lines, "", "Nothing was written."])


@contextmanager
def _untrained(folder: Folder, params: Params, source: DataSource, data: Pipeline, place: Runtime) -> Iterator[Trainer]:
    """The folder's trainer with a teacher that knows nothing, whose answers are kept while the block lasts."""
    with tempfile.TemporaryDirectory() as scratch:
        teacher = build_untrained_teacher(params, folder.params, source, data, place, Path(scratch))
        yield build_trainer(folder, params, place, source, data, teacher)


def _teacher_lines(trainer: Trainer, params: Params, folder: Folder, place: Runtime) -> list[str]:
    teachers = teacher_folders(params, folder.params)
    if trainer.teacher is None:
        return [f"teacher   {teacher.name} is named, but no loss term uses it" for teacher in teachers]
    lines = []
    for teacher in teachers:
        theirs = params_of(teacher)
        told = cost_of(theirs, build_source(theirs, place))
        seen = ", has seen images of val in training" if has_seen_val(teacher, params, trainer.data) else ""
        lines.append(f"teacher   {teacher.name}: {theirs.student.name}, {told}, {teacher.state()}{seen}")
    if has_cache(params, trainer.data):
        asked = trainer.num_epochs * trainer.data.size("train") * trainer.data.views_shown
        lines.append(f"cache     the teacher is run once on each view, {asked:,} at most; its answers are kept")
    return lines


def _init_lines(params: Params, folder: Folder) -> list[str]:
    init = init_folder(params, folder.params)
    if init is None or params.init is None:
        return []
    return [f"init      the {params.init.weights} weights of {init.name}, {init.state()}"]


def _term_lines(params: Params, folder: Folder, data: Pipeline, place: Runtime) -> list[str]:
    """Which features the loss terms compare, and which parameters they add."""
    objective = build_objective(params)
    setting = prepare_objective(objective, params, folder.params, data, place)
    lines = []
    for name, pairs in objective.pairs(setting).items():
        told = ", ".join(f"{_shape(student)} with {_shape(teacher)}" for student, teacher in pairs)
        lines.append(f"compared  {name}: {told}")
    for name, parts in objective.num_parameters().items():
        told = ", ".join(f"{part} {number:,}" for part, number in parts.items())
        lines.append(f"adapters  {name}: {sum(parts.values()):,} parameters ({told})")
    return lines


def _shape(feature: Tensor) -> str:
    """Without the batch: 16x32x32 of a map, 64 of an embedding."""
    return "x".join(map(str, feature.shape[1:]))


def _to_train(params: Params, folder: Folder) -> list[Folder]:
    """Folders that it needs and that are not trained, those that they need first."""
    found: list[Folder] = []
    for needed in missing_folders(params, folder):
        found += [each for each in (*_to_train(params_of(needed), needed), needed) if each not in found]
    return found


def _estimate(folder: Folder, place: Runtime, data: Pipeline) -> float:
    """Seconds that a teacher's training takes about; timed on the student's images where its own are not here."""
    params = params_of(folder)
    source = build_source(params, place)
    own = open_data(params, folder, source, place) if source.is_ready() else data
    with _untrained(folder, params, source, own, place) as trainer:
        return trainer.estimate_seconds(next(iter(own.train_batches(0, params.batch_size))), steps=1)


def _sizes(data: Pipeline) -> str:
    return ", ".join(f"{data.size(split):,} {split}" for split in ("train", "val", "test"))


def stand_in(source: DataSource, num_images: int, place: Runtime, *, strong_view: bool = False) -> MemoryPipeline:
    """Random images in the place of a data set that is not here yet."""
    channels, height, width = source.image_shape
    images = np.random.default_rng(0).integers(0, 256, (num_images, height, width, channels), np.uint8)
    labels = np.arange(num_images) % len(source.class_names)
    arrays = Arrays(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    options = SplitOptions(val_size=0, strong_view=strong_view)
    return MemoryPipeline(arrays, options, source.normalisation, Augmentation(), seed=0, device=place.device)
