"""Find a user's mistakes before any data is read: all of params.json is tried out, teachers' folders included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.build import (
    Place,
    build_objective,
    build_optimizer,
    build_schedule,
    build_source,
    build_student,
    fitting_weights,
    params_of,
    resolve_params,
    split_options,
    teacher_folders,
)
from model.folder import Folder, Weights
from model.params import Params, load_params
from model.types import DataSource
from utils import OptionError, UserError, first_sentence, load_checkpoint


def check_folder(folder: Folder, place: Place) -> Params:
    """The folder's resolved params, checked together with its teachers, trained ones and those that will be.

    Raises:
        UserError: Whatever is wrong with the folder or with a teacher that it needs, in one line.
    """
    params = check_params(load_params(folder.path), folder.params, place)
    if params.teacher is not None and build_objective(params).needs:
        for teacher in teacher_folders(params, folder.params):
            if teacher.is_trained():
                check_weights(teacher, params.teacher.weights, place)
            else:
                check_folder(teacher, place)
    return params


def check_params(params: Params, path: Path, place: Place) -> Params:
    """Resolve an experiment and try out all that can be tried without data, its teachers' folders included.

    Args:
        path: The params.json, named in messages; teachers are looked for relative to its folder.

    Returns:
        The resolved params.

    Raises:
        UserError: Whatever is wrong, in one line.
    """
    resolved = resolve_params(params, path)
    try:
        source = build_source(resolved, place)
        split_options(resolved)
        with torch.device("meta"):  # shapes only: nothing is allocated, no random number is drawn
            student = build_student(resolved, source)
        _try_out(student, resolved, source)
        build_optimizer(resolved, [nn.Parameter(torch.zeros(1))])
        build_schedule(resolved)
        objective = build_objective(resolved)
        if objective.needs:
            if resolved.teacher is None:
                needing = ", ".join(name for name, needs in objective.needs_of.items() if needs)
                raise OptionError("teacher", f"the loss {needing} needs one, and none is given")
            if resolved.teacher.cache_top_k is not None and "logits" in objective.needs:
                reading = ", ".join(name for name, needs in objective.needs_of.items() if "logits" in needs)
                raise OptionError("teacher.cache_top_k", f"the loss {reading} reads all logits: leave this out")
            for folder in teacher_folders(resolved, path):
                _check_teacher(folder, source, path, place)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    return resolved


def _try_out(student: nn.Module, params: Params, source: DataSource) -> None:
    """One training step's forward pass, shapes only."""
    images = min(params.batch_size, 2)
    try:
        student.train()(torch.empty(images, *source.image_shape, device="meta"))
    except (RuntimeError, ValueError) as error:
        key, what = ("batch_size", "1 is too few") if images == 1 else ("student", "cannot be used")
        shape = tuple(source.image_shape)
        raise OptionError(
            key, f"{what} for {params.student.name} and images of shape {shape}: {first_sentence(error)}"
        ) from None


def _check_teacher(folder: Folder, source: DataSource, path: Path, place: Place) -> None:
    params = params_of(folder)
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


def _refuse_cycles(folder: Folder, above: list[Path]) -> None:
    chain = [*above, folder.path.resolve()]
    if folder.path.resolve() in above:
        raise OptionError("teacher", f"a cycle: {' -> '.join(Folder(path).name for path in chain)}")
    for teacher in teacher_folders(load_params(folder.path), folder.params):
        _refuse_cycles(teacher, chain)


def check_weights(folder: Folder, weights: Weights, place: Place) -> dict[str, Any]:
    """The content of a folder's weights file, found to be whole and to fit its network.

    Raises:
        UserError: It is missing, cut short, or of another network.
    """
    params = params_of(folder)
    with torch.device("meta"):
        net = build_student(params, build_source(params, place))
    content = load_checkpoint(folder.checkpoint(weights))
    fitting_weights(net, content, folder.checkpoint(weights))
    return content
