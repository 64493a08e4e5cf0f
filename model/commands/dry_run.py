"""`--dry_run`: build everything, run one batch, describe what a run would do, write nothing into the folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..build.experiment import Experiment
from ..build.freeze import trained_share
from ..build.seen import describe_seen, held_out_seen, seen_by
from ..build.start import other_classes
from ..build.teacher import build_untrained_teacher, has_cache, num_views_shown
from ..build.trainer import build_trainer
from ..config.folder import Folder
from ..config.generations import first_generation
from ..config.params import EmaParams
from ..data.memory import Arrays, Augmentation, MemoryPipeline
from ..evaluation.metrics import predict
from ..logs import format_bytes, format_duration, logging_to
from ..training.probe import estimate_time
from ..training.threads import limit_threads
from ..training.trainer import Trainer
from ..types import Pipeline
from .preflight import check_experiment, preflight
from .provenance import peak_memory


def dry_run(experiment: Experiment, *, startup: float = 0.0) -> str:
    """What `train.py` would do with this folder, several lines.

    Args:
        startup: Seconds that a process takes until it reads its folder.

    Raises:
        UserError: As `train` would.
    """
    limit_threads()
    preflight(experiment)
    folder, generations = experiment.folder, experiment.params.generations
    if not generations:
        return _describe(experiment, startup)
    first = Experiment(folder.path, experiment.runtime, params=first_generation(experiment.written_params))
    heading = f"{folder.name}: {_state(folder)}, {generations} generations, each learns from the one before"
    return f"{heading}\n\n{_describe(first, startup)}"


def estimate_run_seconds(experiment: Experiment, *, threads: int) -> float | None:
    """About how long a run takes, from a few of its steps; None where its data is not here, or it has generations.

    Args:
        threads: Number of threads that the run will have.

    Raises:
        UserError: As `train` would.
    """
    check_experiment(experiment)
    if experiment.params.generations or not experiment.source.is_ready():
        return None
    torch.set_num_threads(threads)
    with _untrained(experiment) as trainer:
        return estimate_time(trainer, next(trainer.train_batches(0, 0))).total


def _describe(experiment: Experiment, startup: float) -> str:
    params, device = experiment.params, experiment.runtime.device
    ready = experiment.source.is_ready()
    if ready:
        with logging_to(None):  # what is unusual about a user's images
            _ = experiment.data
    else:
        experiment.data = random_data(experiment)
    with _untrained(experiment) as trainer:
        batch = next(trainer.train_batches(0, 0))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            result = trainer.train_step.forward(trainer.student, batch, step=0)
        macs = counter.get_total_flops() // 2 // len(batch.labels)
        seconds = startup + estimate_time(trainer, batch).total
        batches = experiment.data.eval_batches("test", experiment.eval_batch_size)
        predict(trainer.student, islice(batches, 1), dtype=torch.float32, device=device)
        memory = peak_memory(device)
    estimates = [
        (needed, _estimate_dependency(needed, experiment.data)) for needed in experiment.all_untrained_dependencies
    ]

    terms = ", ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
    lines = [
        f"{experiment.name}: {_state(experiment.folder)}",
        "",
        json.dumps(params.model_dump(mode="json"), indent=2),
        "",
        f"student   {params.student.name}, {experiment.cost}",
        *([f"ema       {describe_ema(params.ema)}"] if params.ema else []),
        *([f"trained   {trained_share(trainer.student)}"] if params.freeze else []),
        *_teacher_lines(experiment),
        *_init_lines(experiment),
        *_term_lines(experiment),
        f"data      {_sizes(experiment.data) if ready else 'not here yet, fetched first; random images are used now'}",
        f"one batch loss {result.loss:.4f} ({terms})",
        f"forward   {macs:,} multiply-accumulates an image, teacher and loss terms included",
        f"memory    {format_bytes(memory)} at most in a few steps and in evaluation, on {device.type}",
    ]
    if ready:
        dtype = str(experiment.dtype).removeprefix("torch.")
        each = f", each of {trainer.accumulate} batches" if trainer.accumulate > 1 else ""
        steps = f"{trainer.num_epochs} epochs of {trainer.steps_per_epoch}, {trainer.total_steps} in all{each}"
        lines += [
            f"steps     {steps}",
            *_early_stopping_lines(experiment),
            f"time      about {format_duration(seconds)} on {device.type}, {dtype}",
        ]
    for needed, estimate in estimates:
        about = f", about {format_duration(estimate)}" if ready else ""
        lines.append(f"first     train {needed.name}{about}")
    return "\n".join([*lines, "", "Nothing was written to the folder."])


@contextmanager
def _untrained(experiment: Experiment) -> Iterator[Trainer]:
    """The experiment's trainer with an untrained teacher, whose outputs are cached while the block lasts."""
    with experiment.naming_params(), tempfile.TemporaryDirectory() as scratch:
        yield build_trainer(experiment, build_untrained_teacher(experiment, Path(scratch)))


def _teacher_lines(experiment: Experiment) -> list[str]:
    if not experiment.teachers_in_use:
        return [f"teacher   {teacher.name} is named, but no loss term uses it" for teacher in experiment.teachers]
    lines = []
    for teacher in experiment.teachers_in_use:
        network = f"{teacher.params.student.name}, {teacher.cost}"
        lines.append(f"teacher   {teacher.name}: {network}, {_weights_state(teacher)}{_seen(experiment, teacher)}")
    if has_cache(experiment):
        num_views = num_views_shown(experiment)
        lines.append(f"cache     the teacher is run once on each view, {num_views:,} at most; its outputs are cached")
    elif mixing := experiment.split_options.mixing:
        lines.append(f"cache     none: the teacher is run on every batch, as {' and '.join(mixing)} mixes images anew")
    return lines


def _init_lines(experiment: Experiment) -> list[str]:
    init, options, source = experiment.init, experiment.params.init, experiment.init_source()
    if options is None or source is None:
        return []
    fresh = other_classes(experiment, source)
    lines = [f"          without the classifier: {fresh}"] if fresh else []
    if init is None:
        return [f"init      the weights in {source.name}", *lines]
    state = _weights_state(init)
    return [f"init      the {options.weights} weights of {init.name}, {state}{_seen(experiment, init)}", *lines]


def describe_ema(ema: EmaParams) -> str:
    warmup = " after a warm-up" if ema.warmup else ""
    return f"averaged weights with decay {ema.decay:g}{warmup}, also evaluated after each epoch"


def _early_stopping_lines(experiment: Experiment) -> list[str]:
    options = experiment.params.early_stopping
    if options is None:
        return []
    epochs = "epoch" if options.patience == 1 else f"{options.patience} epochs"
    return [f"          at most: ends after {epochs} in which {options.metric} does not improve"]


def _state(folder: Folder) -> str:
    if folder.has_results_to_lose():
        return f"no run to go on from, but results that only --restart replaces ({folder.shown_results()})"
    return folder.state()


def _weights_state(experiment: Experiment) -> str:
    """As `_state`, of a folder whose weights are used."""
    return f"trained, {experiment.accuracies}" if experiment.is_trained else _state(experiment.folder)


def _seen(experiment: Experiment, other: Experiment) -> str:
    """How many held-out images a teacher, or the folder to start from, has seen or will have seen."""
    text = describe_seen(experiment, held_out_seen(experiment, seen_by(other))) if experiment.source.is_ready() else ""
    return f"; {text}" if text else ""


def _term_lines(experiment: Experiment) -> list[str]:
    """Which features the loss terms compare, and which parameters they add."""
    objective, context = experiment.new_objective(), experiment.loss_context
    objective.prepare(context)
    lines = []
    for name, pairs in objective.feature_pairs(context).items():
        shapes = ", ".join(f"{_shape(student)} with {_shape(teacher)}" for student, teacher in pairs)
        lines.append(f"compared  {name}: {shapes}")
    for name, parts in objective.num_parameters().items():
        numbers = ", ".join(f"{part} {number:,}" for part, number in parts.items())
        lines.append(f"adapters  {name}: {sum(parts.values()):,} parameters ({numbers})")
    return lines


def _shape(feature: Tensor) -> str:
    """Without the batch: 16x32x32 of a map, 64 of an embedding."""
    return "x".join(map(str, feature.shape[1:]))


def _estimate_dependency(experiment: Experiment, students_data: Pipeline) -> float:
    """About how many seconds a teacher's training takes; timed on the student's images where its own are not here."""
    if not experiment.source.is_ready():
        experiment.data = students_data
    with _untrained(experiment) as trainer:
        return estimate_time(trainer, next(trainer.train_batches(0, 0))).total


def _sizes(data: Pipeline) -> str:
    return ", ".join(f"{data.size(split):,} {split}" for split in ("train", "val", "test"))


def random_data(experiment: Experiment) -> MemoryPipeline:
    """Random images instead of a data set that has not been fetched yet."""
    source, num_images = experiment.source, experiment.params.batch_size
    channels, height, width = source.image_shape
    images = np.random.default_rng(0).integers(0, 256, (num_images, height, width, channels), np.uint8)
    labels = np.arange(num_images) % len(source.class_names)
    arrays = Arrays(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    # What is augmented, but for crop and flip, which these images do not have.
    not_here: dict[str, Any] = {"alternating_flip": False, "crop_scale": None, "crop_ratio": None}
    options = replace(experiment.split_options, val_size=0, train_fraction=1.0, **not_here)
    device = experiment.runtime.device
    return MemoryPipeline(arrays, options, source.normalisation, Augmentation(), seed=0, device=device)
