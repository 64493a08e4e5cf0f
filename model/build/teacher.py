"""From the folders that teach to what answers in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..config.folder import Folder
from ..config.params import Params
from ..logs import format_bytes, log
from ..teachers.cached import NUM_VERIFIED, CachedTeacher, open_cache, unique_rows
from ..teachers.encoding import Encoding, Float16Encoding, TopKEncoding
from ..teachers.ensemble import EnsembleTeacher
from ..teachers.live import LiveTeacher
from ..training.checkpoint import load_checkpoint
from ..training.precision import resolve_precision
from ..types import PER_IMAGE_NEEDS, DataSource, Need, Normalisation, Part, Pipeline, Teacher
from .data import build_source, split_options
from .network import build_network
from .objective import build_objective
from .resolve import params_of, teacher_folders
from .runtime import Runtime
from .weights import load_weights, normalisation_of, state_dict_of, weights_digest

TOP_K = 16  # probabilities kept where views have no end, as a file of all logits would be too large


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """A teacher's weights as they were read."""

    folder: Folder
    path: Path
    content: dict[str, Any]
    weights_digest: str


def read_teachers(params: Params, path: Path) -> list[TrainedTeacher]:
    """The weights of the folders that teach; none where no loss term needs them.

    Raises:
        UserError: A file is missing or broken.
    """
    if params.teacher is None or not build_objective(params).needs:
        return []
    trained = []
    for folder in teacher_folders(params, path):
        file = folder.checkpoint(params.teacher.weights)
        content = load_checkpoint(file)
        trained.append(
            TrainedTeacher(
                folder=folder, path=file, content=content, weights_digest=weights_digest(state_dict_of(content, file))
            )
        )
    return trained


def build_teacher(
    trained: Sequence[TrainedTeacher], params: Params, source: DataSource, data: Pipeline, place: Runtime
) -> Teacher | None:
    """What teaches a run: the trained networks, with their answers kept where that is possible and wanted.

    Tells which of them have been trained on images that the run holds out as `val`.

    Raises:
        UserError: Weights are of another network, or a kept answer is wrong.
    """
    for each in trained:
        if has_seen_val(each.folder, params, data):
            log.warning("%s has been trained on images of val: val flatters, test does not", each.folder.name)
    return _together([_build_member(each, params, source, data, place) for each in trained], params)


def has_seen_val(teacher: Folder, params: Params, data: Pipeline) -> bool:
    """Whether a teacher was trained on the same images, and among them on some that the run holds out."""
    theirs = params_of(teacher)
    path = theirs.dataset.options.get("path")
    if (theirs.dataset.name, path) != (params.dataset.name, params.dataset.options.get("path")):
        return False
    split = split_options(theirs)
    held_out = len(data.training_labels()) // 10 if split.val_size is None else split.val_size
    is_other_split = split.split_seed != split_options(params).split_seed
    return data.size("val") > (0 if is_other_split else held_out)


def build_untrained_teacher(
    params: Params, path: Path, source: DataSource, data: Pipeline, place: Runtime, scratch: Path
) -> Teacher | None:
    """A teacher of the same shape as the trained one, for a dry run; its answers are kept in `scratch`."""
    if params.teacher is None or not build_objective(params).needs:
        return None
    members: list[Teacher] = []
    for number, folder in enumerate(teacher_folders(params, path)):
        theirs = params_of(folder)
        net = build_network(theirs, build_source(theirs, place))
        live = _live(net, source.normalisation, params, source, place)
        stand_in = Folder(scratch / str(number))
        about = {"weights": "none", "digest": ""}
        members.append(_with_cache(live, stand_in, about, params, data, place) if has_cache(params, data) else live)
    return _together(members, params)


def has_cache(params: Params, data: Pipeline) -> bool:
    """Whether a run keeps what its teachers say."""
    assert params.teacher is not None
    wanted = not data.views(params.num_epochs).unbounded if params.teacher.cache is None else params.teacher.cache
    return wanted and not _of_no_rows(params)


def _of_no_rows(params: Params) -> set[Need]:
    """What is read of the answers and cannot be kept."""
    return set(
        build_objective(params).needs - PER_IMAGE_NEEDS - {"classifier"}
    )  # which is of the network, and no answer


def _together(members: Sequence[Teacher], params: Params) -> Teacher | None:
    if len(members) > 1:
        assert params.teacher is not None
        return EnsembleTeacher(members, params.teacher.combine)
    return members[0] if members else None


def _live(net: nn.Module, trained_on: Normalisation, params: Params, source: DataSource, place: Runtime) -> LiveTeacher:
    dtype = resolve_precision(params.precision, place.device)
    return LiveTeacher(
        net, normalisation=trained_on, data_normalisation=source.normalisation, dtype=dtype, device=place.device
    )


def _build_member(
    trained: TrainedTeacher, params: Params, source: DataSource, data: Pipeline, place: Runtime
) -> Teacher:
    assert params.teacher is not None
    theirs = params_of(trained.folder)
    their_source = build_source(theirs, place)
    net = build_network(theirs, their_source)
    load_weights(net, trained.content, trained.path)
    live = _live(net, normalisation_of(trained.content, their_source.normalisation), params, source, place)
    if not has_cache(params, data):
        if params.teacher.cache:
            maps = ", ".join(sorted(_of_no_rows(params)))
            log.info("teacher %s: its %s cannot be kept, so it is run on every batch", trained.folder.name, maps)
        return live
    about = {
        "weights": params.teacher.weights,
        "digest": trained.weights_digest,
        "network": theirs.student.model_dump(),
        "trained_on": asdict(live.normalisation),
    }
    try:
        cached = _with_cache(live, trained.folder, about, params, data, place)
    except OSError as error:
        log.warning("%s: its answers cannot be kept (%s); it is run on every batch", trained.folder.name, error)
        return live
    index, view = cached.sample_cached_views()
    if len(index):
        cached.verify(data.training_batch(index, view))
    log.info("teacher %s: %s", trained.folder.name, _summary(cached, len(index)))
    return cached


def _with_cache(
    live: LiveTeacher, folder: Folder, about: dict[str, Any], params: Params, data: Pipeline, place: Runtime
) -> CachedTeacher:
    views = data.views(params.num_epochs)
    about |= {
        "images": data.content_digest(),
        "views": views.meaning,
        "precision": str(live.dtype).removeprefix("torch."),
        "device": place.device.type,
    }
    drawn = [data.drawn_views(epoch) for epoch in range(params.num_epochs)]
    index, view = drawn[0]
    said = live(data.training_batch(index[:NUM_VERIFIED], view[:NUM_VERIFIED]))
    needs = build_objective(params).needs
    codings: dict[Part, Encoding] = {}
    if needs & {"logits", "probabilities"}:
        codings["logits"] = _coding_of_logits(said.logits, folder, params, unbounded=views.unbounded)
    if "embedding" in needs:
        codings["embedding"] = Float16Encoding(said.embedding.shape[1])
    return open_cache(
        live,
        folder.cache,
        key=about,
        encodings=codings,
        views=views,
        needed_rows=unique_rows(views, drawn),
        dtype=live.dtype,
        device=place.device,
    )


def _coding_of_logits(sample_NK: Tensor, folder: Folder, params: Params, *, unbounded: bool) -> Encoding:
    assert params.teacher is not None
    num_classes, top_k = sample_NK.shape[1], params.teacher.cache_top_k
    k = top_k or (TOP_K if unbounded else num_classes)
    if k >= num_classes or "logits" in build_objective(params).needs:
        return Float16Encoding(num_classes)
    coding = TopKEncoding(k, num_classes)
    mass = coding.mass(coding.encode(sample_NK)).mean().item()
    log.info("teacher %s: the %d largest probabilities are kept, %.2f %% of the mass", folder.name, k, 100 * mass)
    return coding


def _summary(cached: CachedTeacher, num_checked: int) -> str:
    """One line: what is kept already, what is to come, how large it may grow."""
    size = sum(part.file.size for part in cached.parts.values())
    place = next(iter(cached.parts.values())).file.path.parent
    there = len(cached.needed_rows) - cached.num_missing
    checked = f" ({num_checked} of them computed again: the same)" if num_checked else ""
    return (
        f"{there:,} of the {len(cached.needed_rows):,} answers that this run needs are kept{checked}; "
        f"{Folder(place).name} has {format_bytes(size)} when it is full"
    )
