"""Find a user's mistakes before any data is read: all of params.json is tried out, teachers' folders included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..build.data import build_source, split_options
from ..build.network import build_network, classifier_of, concat_embeddings, shapes_in_training, shapes_of
from ..build.objective import build_objective
from ..build.optimizer import build_optimizer, build_schedule
from ..build.resolve import init_folder, params_of, resolve_params, teacher_folders
from ..build.runtime import Runtime
from ..build.weights import fitting_weights
from ..config.folder import Folder, Weights
from ..config.generations import first_generation
from ..config.params import Params, load_params
from ..errors import OptionError, UserError, first_sentence
from ..training.checkpoint import load_checkpoint
from ..types import PER_IMAGE_NEEDS, Batch, DataSource, LossContext, Output


def check_folder(folder: Folder, place: Runtime) -> Params:
    """The folder's resolved params, checked together with its teachers, trained ones and those that will be.

    Raises:
        UserError: Whatever is wrong with the folder or with a teacher that it needs, in one line.
    """
    params = check_params(load_params(folder.path), folder.params, place)
    if params.generations:
        return params
    if params.teacher is not None and build_objective(params).needs:
        for teacher in teacher_folders(params, folder.params):
            _check_trained(teacher, params.teacher.weights, place)
    init = init_folder(params, folder.params)
    if init is not None and params.init is not None:
        _check_trained(init, params.init.weights, place)
    return params


def _check_trained(folder: Folder, weights: Weights, place: Runtime) -> None:
    """A folder that another one needs: its weights, or that it can be trained."""
    if folder.is_trained():
        check_weights(folder, weights, place)
    else:
        check_folder(folder, place)


def check_params(params: Params, path: Path, place: Runtime) -> Params:
    """Resolve an experiment and try out all that can be tried without data, its teachers' folders included.

    Args:
        path: The params.json, named in messages; teachers are looked for relative to its folder.

    Returns:
        The resolved params.

    Raises:
        UserError: Whatever is wrong, in one line.
    """
    resolved = resolve_params(params, path)
    if params.generations:
        _check_generations(params, path, place)
        return resolved
    try:
        said, source = _try_parts(resolved, place)
        objective = build_objective(resolved)
        taught: list[Output] = []
        classifier = None
        if objective.needs:
            if resolved.teacher is None:
                needing = ", ".join(name for name, needs in objective.needs_of.items() if needs)
                raise OptionError("teacher", f"the loss {needing} needs one, and none is given")
            if resolved.teacher.cache_top_k is not None and "logits" in objective.needs:
                reading = ", ".join(name for name, needs in objective.needs_of.items() if "logits" in needs)
                raise OptionError("teacher.cache_top_k", f"the loss {reading} reads all logits: leave this out")
            folders = teacher_folders(resolved, path)
            comparing = [name for name, needs in objective.needs_of.items() if needs - PER_IMAGE_NEEDS]
            if comparing and len(folders) > 1:
                raise OptionError(
                    "teacher", f"the loss {', '.join(comparing)} compares with one network: name one folder"
                )
            for folder in folders:
                taught.append(_check_teacher(folder, source, path, place, num_images=len(said.logits)))
            if "classifier" in objective.needs:
                classifier = classifier_of(params_of(folders[0]), place)
        _try_losses(resolved, said, concat_embeddings(taught), classifier)
        _check_init(resolved, path, place)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    return resolved


def _try_parts(params: Params, place: Runtime) -> tuple[Output, DataSource]:
    """Build all that can be built without data and teachers; what the student says of some images, shapes only."""
    source = build_source(params, place)
    split_options(params)
    said = _try_out(params, source)
    build_optimizer(params, [nn.Parameter(torch.zeros(1))])
    build_schedule(params)
    return said, source


def _check_generations(params: Params, path: Path, place: Runtime) -> None:
    """The first generation, and a later one, whose teacher is the same network and need not be there yet."""
    if params.init is not None:
        raise UserError(f"{path}: init: every generation begins with fresh weights: leave this out")
    check_params(first_generation(params), path, place)
    later = resolve_params(params.model_copy(update={"generations": None}), path)
    try:
        said, _ = _try_parts(later, place)
        _try_losses(later, said, said, classifier_of(later, place))
        if not build_objective(later).needs:
            raise OptionError("generations", "no term of the loss asks a teacher, so none learns from the one before")
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def _try_out(params: Params, source: DataSource) -> Output:
    """One training step's forward pass, shapes only."""
    images = min(params.batch_size, 2)
    try:
        return shapes_in_training(params, source, images)
    except (RuntimeError, ValueError, AssertionError) as error:  # networks of other libraries assert
        key, what = ("batch_size", "1 is too few") if images == 1 else ("student", "cannot be used")
        shape = tuple(source.image_shape)
        raise OptionError(
            key, f"{what} for {params.student.name} and images of shape {shape}: {first_sentence(error)}"
        ) from None


def _try_losses(params: Params, said: Output, taught: Output | None, classifier: nn.Linear | None) -> None:
    """Refuse a student and a teacher that a term cannot compare; values are zeros."""
    num_images, num_classes = said.logits.shape
    index_N = torch.zeros(num_images, dtype=torch.long)
    batch = Batch(torch.zeros(num_images, 1, 1, 1), index_N, index_N, index_N)
    objective = build_objective(params)
    labels_M = torch.arange(2 * num_classes) % num_classes  # two images of each class, as none has been read yet
    objective.prepare(
        LossContext(student=said, teacher=taught, labels=labels_M, seed=params.seed, classifier=classifier)
    )
    for name, loss in objective.losses.items():
        try:
            loss(_zeros(said), None if taught is None else _zeros(taught), batch)
        except (ValueError, RuntimeError) as error:
            raise OptionError(f"loss.{name}", first_sentence(error)) from None


def _zeros(said: Output) -> Output:
    """An output of the same shapes, which can be computed with."""
    maps, preacts = (tuple(torch.zeros(each.shape) for each in part) for part in (said.maps, said.preacts))
    logits, embedding = torch.zeros(said.logits.shape), torch.zeros(said.embedding.shape)
    exits = tuple(_zeros(early) for early in said.exits)
    stem = None if said.stem is None else torch.zeros(said.stem.shape)
    return Output(logits, embedding, maps, preacts, exits, stem)


def _check_teacher(folder: Folder, source: DataSource, path: Path, place: Runtime, *, num_images: int) -> Output:
    """What a teacher says of some images, shapes only."""
    params = params_of(folder)
    if params.generations:
        raise OptionError("teacher", f"{folder.name} holds {params.generations} generations; name one: .../gen_1")
    theirs = build_source(params, place)
    if len(theirs.class_names) != len(source.class_names):
        raise OptionError(
            "teacher",
            f"{folder.name} tells {len(theirs.class_names)} classes apart ({params.dataset.name}), "
            f"the student {len(source.class_names)}",
        )
    if theirs.image_shape != source.image_shape:
        raise OptionError(
            "teacher", f"{folder.name} is fed images of shape {theirs.image_shape}, the student {source.image_shape}"
        )
    _refuse_cycles(folder, [path.parent.resolve()])
    try:
        return shapes_of(params, place, num_images)
    except (OptionError, RuntimeError, AssertionError) as error:
        raise UserError(f"{folder.params}: {error}") from None


def _check_init(params: Params, path: Path, place: Runtime) -> None:
    """The folder that a run starts from has the same network."""
    folder = init_folder(params, path)
    if folder is None:
        return
    theirs = params_of(folder)
    if theirs.generations:
        raise OptionError("init", f"{folder.name} holds {theirs.generations} generations; name one: .../gen_1")
    _refuse_cycles(folder, [path.parent.resolve()], key="init")
    with torch.device("meta"):
        nets = [build_network(each, build_source(each, place)) for each in (params, theirs)]
    try:
        fitting_weights(nets[0], {"state_dict": nets[1].state_dict()}, folder.params)
    except UserError as error:
        raise OptionError("init", str(error)) from None


def _refuse_cycles(folder: Folder, above: list[Path], *, key: str = "teacher") -> None:
    chain = [*above, folder.path.resolve()]
    if folder.path.resolve() in above:
        raise OptionError(key, f"a cycle: {' -> '.join(Folder(path).name for path in chain)}")
    params = load_params(folder.path)
    init = init_folder(params, folder.params)
    for needed in [*teacher_folders(params, folder.params), *([] if init is None else [init])]:
        _refuse_cycles(needed, chain, key=key)


def check_weights(folder: Folder, weights: Weights, place: Runtime) -> dict[str, Any]:
    """The content of a folder's weights file, found to be whole and to fit its network.

    Raises:
        UserError: It is missing, cut short, or of another network.
    """
    params = params_of(folder)
    with torch.device("meta"):
        net = build_network(params, build_source(params, place))
    content = load_checkpoint(folder.checkpoint(weights))
    fitting_weights(net, content, folder.checkpoint(weights))
    return content
