"""The teacher of an experiment: live or cached networks, one or an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config.folder import Folder
from ..logs import format_bytes, log
from ..teachers.cached import NUM_VERIFIED, CachedTeacher, open_cache, unique_rows
from ..teachers.compiled import MODES
from ..teachers.encoding import Encoding, Float16Encoding, TopKEncoding
from ..teachers.ensemble import EnsembleTeacher
from ..teachers.live import LiveTeacher
from ..teachers.matched import MatchedClasses, matched
from ..types import PER_IMAGE_NEEDS, Need, Normalisation, Output, Part, Teacher
from .network import select_classes
from .weights import WeightsFile

if TYPE_CHECKING:
    from .experiment import Experiment

TOP_K = 16  # probabilities that are cached where views are unbounded, as a file of all logits would be too large
MAX_CACHE_BYTES = 16 * 10**9  # that are written where params.json does not say whether outputs are cached
# Of a teacher that is compiled, on all training images once: with less, compiling takes longer than it saves.
MIN_MACS_TO_COMPILE = 1e13


def read_teacher_weights(experiment: Experiment) -> list[WeightsFile]:
    """The weights of the folders that teach; none where no loss term needs a teacher.

    Raises:
        UserError: A file is missing or broken.
    """
    if not experiment.teachers_in_use:
        return []
    which = experiment.teacher_options.weights
    return [teacher.read_weights(which) for teacher in experiment.teachers_in_use]


def build_teacher(experiment: Experiment, weights: Sequence[WeightsFile]) -> Teacher | None:
    """The teacher of a run: the trained networks, with their outputs cached where that is possible and wanted.

    Args:
        weights: One file for each of the experiment's teachers in use.

    Raises:
        UserError: Weights are another network's, or a cached output is wrong.
    """
    members = zip(experiment.teachers_in_use, weights, strict=True)
    return _combine(experiment, [_live_or_cached(experiment, teacher, file) for teacher, file in members])


def build_live_teacher(
    experiment: Experiment, weights: Sequence[WeightsFile], dtype: torch.dtype = torch.float32
) -> Teacher | None:
    """The same without a cache: for images of any split.

    Raises:
        UserError: Weights are another network's.
    """
    members = zip(experiment.teachers_in_use, weights, strict=True)
    return _combine(experiment, [build_live_member(experiment, teacher, file, dtype) for teacher, file in members])


def build_live_member(
    experiment: Experiment, teacher: Experiment, weights: WeightsFile, dtype: torch.dtype | None = None
) -> LiveTeacher:
    """One of the teachers, its classes in the student's order.

    Raises:
        UserError: The weights are another network's.
    """
    net = teacher.network()
    weights.load_into(net)
    return _live(experiment, teacher, net, teacher.trained_normalisation(weights), dtype)


def build_untrained_teacher(experiment: Experiment, scratch: Path) -> Teacher | None:
    """A teacher of the same shape as the trained one, for a dry run; its outputs are cached in `scratch`."""
    members: list[Teacher] = []
    for number, teacher in enumerate(experiment.teachers_in_use):
        live = _live(experiment, teacher, teacher.network(), experiment.source.normalisation)
        if has_cache(experiment):
            key = {"weights": "none", "digest": ""}
            members.append(_with_cache(experiment, live, Folder(scratch / str(number)), key))
        else:
            members.append(live)
    return _combine(experiment, members)


def teacher_output_shapes(experiment: Experiment, teacher: Experiment, num_images: int) -> Output:
    """A teacher's output for the student's classes, on the meta device.

    Raises:
        UserError: The network cannot be used for its images, or its classes have other names.
    """
    output, groups = teacher.output_shapes(num_images), experiment.classes_of_teacher(teacher)
    return output if groups is None else matched(output, groups)


def has_cache(experiment: Experiment) -> bool:
    """Whether the outputs of the teachers are cached."""
    if _uncacheable_needs(experiment) or experiment.split_options.mixing:
        return False
    wanted = experiment.teacher_options.cache
    if wanted is None:
        return (
            not experiment.data.views(experiment.params.num_epochs).unbounded
            and _cache_bytes(experiment) <= MAX_CACHE_BYTES
        )
    return wanted


def num_views_shown(experiment: Experiment) -> int:
    """At most how many different views of training images a run shows."""
    return _num_epochs_of_new_views(experiment) * experiment.data.size("train") * experiment.data.views_shown


def _num_epochs_of_new_views(experiment: Experiment) -> int:
    """After how many epochs a run has shown all its views."""
    num_epochs = experiment.params.num_epochs
    if experiment.split_options.sampler == "balanced":  # each epoch shows other images
        return num_epochs
    return min(num_epochs, experiment.data.views_per_image or num_epochs)


def _cache_bytes(experiment: Experiment) -> int:
    """At most how many bytes of all logits, and of embeddings, a run adds to the caches of its teachers."""
    output, needs = experiment.loss_context.teacher, experiment.objective.needs
    assert output is not None
    values = output.embedding.shape[1] if "embedding" in needs else 0
    if needs & {"logits", "probabilities"}:
        values += len(experiment.teachers_in_use) * output.logits.shape[1]
    return 2 * values * num_views_shown(experiment)


def _is_worth_compiling(experiment: Experiment, teacher: Experiment) -> bool:
    """Whether a teacher is compiled.

    Neither what is cached nor a measurement decides: runs that share a cache compute the same outputs in the same way.
    """
    if experiment.params.compile is False or experiment.runtime.device.type not in MODES:
        return False
    return teacher.cost.macs * experiment.data.size("train") >= MIN_MACS_TO_COMPILE


def _step_size(experiment: Experiment) -> int:
    """Images for which a process asks the teacher in a step."""
    return math.ceil(experiment.params.batch_size / experiment.runtime.world.size) * experiment.data.views_shown


def _uncacheable_needs(experiment: Experiment) -> set[Need]:
    """What loss terms read of the teacher's output and no cache holds."""
    return set(experiment.objective.needs - PER_IMAGE_NEEDS - {"classifier"})  # the classifier is no output


def _combine(experiment: Experiment, members: Sequence[Teacher]) -> Teacher | None:
    if len(members) > 1:
        return EnsembleTeacher(members, experiment.teacher_options.combine)
    return members[0] if members else None


def _live(
    experiment: Experiment,
    teacher: Experiment,
    net: nn.Module,
    trained_on: Normalisation,
    dtype: torch.dtype | None = None,
) -> LiveTeacher:
    return LiveTeacher(
        _with_students_classes(experiment, teacher, net),
        image_size=teacher.source.image_shape[1:],
        normalisation=trained_on,
        data_normalisation=experiment.source.normalisation,
        dtype=dtype or experiment.dtype,
        device=experiment.runtime.device,
    )


def _with_students_classes(experiment: Experiment, teacher: Experiment, net: nn.Module) -> nn.Module:
    groups = experiment.classes_of_teacher(teacher)
    if groups is None:
        return net
    columns = [group[0] for group in groups]
    if groups and sum(map(len, groups)) == len(columns) and select_classes(net, columns, teacher.source.image_shape):
        return net
    return MatchedClasses(net, groups)


def _live_or_cached(experiment: Experiment, teacher: Experiment, weights: WeightsFile) -> Teacher:
    options, groups = experiment.teacher_options, experiment.classes_of_teacher(teacher)
    live = build_live_member(experiment, teacher, weights)
    is_compiled = _is_worth_compiling(experiment, teacher)
    if not has_cache(experiment):
        if experiment.split_options.mixing:
            log.info("teacher %s: mixed images cannot be cached, so it is run on every batch", teacher.name)
        elif options.cache:
            parts = ", ".join(sorted(_uncacheable_needs(experiment)))
            log.info("teacher %s: %s cannot be cached, so it is run on every batch", teacher.name, parts)
        if is_compiled:
            _compile(experiment, teacher, live, _step_size(experiment))
        return live
    key: dict[str, Any] = {
        "weights": options.weights,
        "digest": weights.digest,
        "network": teacher.params.student.model_dump(),
        "trained_on": asdict(live.normalisation),
    }
    if (image_shape := teacher.source.image_shape) != experiment.source.image_shape:
        key["image_shape"] = list(image_shape)
    if groups is not None:
        key["columns"] = [list(group) for group in groups]
    try:
        cached = _with_cache(experiment, live, teacher.folder, key | ({"compiled": True} if is_compiled else {}))
        if is_compiled and not _compile(experiment, teacher, live, cached.batch_size, at_once=cached.num_missing > 0):
            cached = _with_cache(experiment, live, teacher.folder, key)
    except OSError as error:
        log.warning("teacher %s: its outputs cannot be cached (%s): it is run on every batch", teacher.name, error)
        return live
    index, view = cached.sample_cached_views()
    if len(index):
        cached.verify(experiment.data.augmented_batch(index, view))
    log.info("teacher %s: %s", teacher.name, _cache_summary(cached, len(index)))
    return cached


def _compile(
    experiment: Experiment, teacher: Experiment, live: LiveTeacher, batch_size: int, *, at_once: bool = True
) -> bool:
    """Compile a teacher for batches of a size; returns whether that worked.

    Args:
        at_once: Or else only when an output is needed that should have been cached.
    """
    live.compile(batch_size)
    if not at_once:
        return True
    log.info("teacher %s: compiling its network", teacher.name)
    index, view = experiment.data.epoch_views(0)
    return live.run_compiled(experiment.data.augmented_batch(index[:NUM_VERIFIED], view[:NUM_VERIFIED]))


def _with_cache(experiment: Experiment, live: LiveTeacher, folder: Folder, key: dict[str, Any]) -> CachedTeacher:
    data, needs = experiment.data, experiment.objective.needs
    views = data.views(experiment.params.num_epochs)
    key |= {
        "images": data.fingerprint.train.content,
        "views": views.config,
        "precision": str(live.dtype).removeprefix("torch."),
        "device": experiment.runtime.device.type,
    }
    drawn = [data.epoch_views(epoch) for epoch in range(_num_epochs_of_new_views(experiment))]
    index, view = drawn[0]
    output = live.run_uncompiled(data.augmented_batch(index[:NUM_VERIFIED], view[:NUM_VERIFIED]))
    encodings: dict[Part, Encoding] = {}
    if needs & {"logits", "probabilities"}:
        encodings["logits"] = _encoding_of_logits(experiment, output.logits, folder, unbounded=views.unbounded)
    if "embedding" in needs:
        encodings["embedding"] = Float16Encoding(output.embedding.shape[1])
    return open_cache(
        live,
        folder.cache,
        key=key,
        encodings=encodings,
        views=views,
        needed_rows=unique_rows(views, drawn),
        dtype=live.dtype,
        device=experiment.runtime.device,
        batch_size=experiment.eval_batch_size if data.in_memory else _step_size(experiment),
    )


def _encoding_of_logits(experiment: Experiment, sample_NK: Tensor, folder: Folder, *, unbounded: bool) -> Encoding:
    num_classes, top_k = sample_NK.shape[1], experiment.teacher_options.cache_top_k
    k = top_k or (TOP_K if unbounded else num_classes)
    if k >= num_classes or "logits" in experiment.objective.needs:
        return Float16Encoding(num_classes)
    encoding = TopKEncoding(k, num_classes)
    mass = encoding.mass(encoding.encode(sample_NK)).mean().item()
    log.info("teacher %s: the %d largest probabilities are cached, %.2f %% of the mass", folder.name, k, 100 * mass)
    return encoding


def _cache_summary(cached: CachedTeacher, num_checked: int) -> str:
    """One line: how many outputs are cached, how many will be, and how large the files may grow."""
    size = sum(part.file.size for part in cached.parts.values())
    path = next(iter(cached.parts.values())).file.path.parent
    num_rows = len(cached.needed_rows)
    checked = f", {num_checked} of them checked against the network" if num_checked else ""
    return (
        f"outputs cached: {num_rows - cached.num_missing:,} of {num_rows:,} rows{checked}; "
        f"{Folder(path).name} takes {format_bytes(size)} when full"
    )
