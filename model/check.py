"""Find a user's mistakes before any data is read: all of params.json is tried out, teachers' folders included."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
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
from model.types import Batch, DataSource, Need, Output
from utils import OptionError, UserError, first_sentence, load_checkpoint

OF_ANY_TEACHER: frozenset[Need] = frozenset({"probabilities", "logits", "embedding"})  # several give these together


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
        said = _try_out(student.train(), resolved, source)
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
            teachers = teacher_folders(resolved, path)
            for folder in teachers:
                _check_teacher(folder, source, path, place)
            _try_losses(resolved, said, teachers, place)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    return resolved


def _try_out(net: nn.Module, params: Params, source: DataSource) -> Output:
    """One step's forward pass, shapes only."""
    images = min(params.batch_size, 2)
    try:
        output: Output = net(torch.empty(images, *source.image_shape, device="meta"))
    except (RuntimeError, ValueError) as error:
        key, what = ("batch_size", "1 is too few") if images == 1 else ("student", "cannot be used")
        shape = tuple(source.image_shape)
        raise OptionError(
            key, f"{what} for {params.student.name} and images of shape {shape}: {first_sentence(error)}"
        ) from None
    return output


def _try_losses(params: Params, said: Output, teachers: Sequence[Folder], place: Place) -> None:
    """Refuse a student and a teacher that a term cannot compare; shapes only."""
    with torch.device("meta"):
        objective = build_objective(params)
        index = torch.zeros(len(said.logits), dtype=torch.long)
        batch = Batch(torch.zeros(len(index), 1, 1, 1), labels=index, index=index, view=index)
    names = [name for name, needs in objective.needs_of.items() if needs - OF_ANY_TEACHER]
    if names and len(teachers) > 1:
        raise OptionError("teacher", f"the loss {', '.join(names)} compares with one network: name one folder only")
    for name in names:
        taught = _answer(teachers[0], params.batch_size, place)
        try:
            with suppress(RuntimeError):  # of a term that looks at values, which are not here
                objective.losses[name](said, taught, batch)
        except ValueError as error:
            raise OptionError(f"loss.{name}", str(error)) from None


def _answer(folder: Folder, batch_size: int, place: Place) -> Output:
    """What the network of a teacher's folder gives, shapes only."""
    params = params_of(folder).model_copy(update={"batch_size": batch_size})
    try:
        source = build_source(params, place)
        with torch.device("meta"):
            net = build_student(params, source)
        return _try_out(net.eval(), params, source)
    except OptionError as error:
        raise UserError(f"{folder.params}: {error}") from None


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
