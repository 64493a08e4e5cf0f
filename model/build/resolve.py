"""Params with every default filled in, checked against the registered functions' signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.folder import Folder
from ..config.params import Component, Params, load_params
from ..config.references import find_folder
from ..errors import OptionError, UserError, did_you_mean, option_scope, preview
from ..registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry


def resolve_params(params: Params, path: Path) -> Params:
    """The same experiment with every default filled in.

    Raises:
        UserError: An option of a data set, network, loss, optimizer or schedule is wrong; names file and key.
    """
    try:
        return params.model_copy(
            update={
                "dataset": _resolved("dataset", DATASETS, params.dataset),
                "student": _with_teacher(_resolved("student", NETS, params.student), params, path),
                "loss": {name: _resolve_term(name, options) for name, options in params.loss.items()},
                "optimizer": _resolved("optimizer", OPTIMIZERS, params.optimizer),
                "schedule": _resolved("schedule", SCHEDULES, params.schedule),
            }
        )
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def params_of(folder: Folder) -> Params:
    """The resolved params of a folder.

    Raises:
        UserError: Something in its params.json is wrong.
    """
    return resolve_params(load_params(folder.path), folder.params)


def _resolved(key: str, registry: Registry[Any], component: Component) -> Component:
    with option_scope(key):
        return Component(name=component.name, **registry.resolve(component.name, component.options))


def _with_teacher(student: Component, params: Params, path: Path) -> Component:
    """A network with an option `teacher` that is left open is told the network of the first folder that teaches."""
    if params.teacher is None or student.options.get("teacher", "no such option") is not None:
        return student
    theirs = load_params(teacher_folders(params, path)[0].path).student
    return Component(name=student.name, **student.options | {"teacher": theirs.model_dump()})


def _resolve_term(name: str, options: dict[str, Any]) -> dict[str, Any]:
    if name not in LOSSES.names():
        known = ", ".join(LOSSES.names())
        raise OptionError(
            "loss", f"no loss is named {preview(name)}{did_you_mean(name, LOSSES.names())}; known: {known}"
        )
    with option_scope(f"loss.{name}"):
        return LOSSES.resolve(name, options)


def teacher_folders(params: Params, path: Path) -> list[Folder]:
    """The folders that teach, found; none where the params name none."""
    if params.teacher is None:
        return []
    return [Folder(find_folder(name, path.parent)) for name in params.teacher.model_dir]


def init_folder(params: Params, path: Path) -> Folder | None:
    """The folder whose weights the run starts from, found; None where it starts from fresh ones."""
    return None if params.init is None else Folder(find_folder(params.init.model_dir, path.parent, key="init"))
