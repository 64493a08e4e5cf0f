"""The objective of an experiment, and what its terms are given before the first step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..config.folder import Folder
from ..config.params import Params
from ..errors import OptionError, UserError, option_scope
from ..losses.objective import Objective
from ..registry import LOSSES
from ..training.checkpoint import load_checkpoint
from ..types import LossContext, Pipeline
from .network import classifier_of, concat_embeddings, shapes_of
from .resolve import init_folder, params_of, teacher_folders
from .runtime import Runtime
from .weights import state_dict_of


def build_objective(params: Params) -> Objective:
    terms = {}
    for name, options in params.loss.items():
        with option_scope(f"loss.{name}"):
            terms[name] = (LOSSES.build(name, **options), LOSSES.common_options(name, options))
    try:
        return Objective(terms)
    except ValueError as error:
        raise OptionError("loss", str(error)) from None


def prepare_objective(objective: Objective, params: Params, path: Path, data: Pipeline, place: Runtime) -> LossContext:
    """Let the terms make what depends on the networks and the data; gives what they were told.

    Raises:
        UserError: A term cannot compare the student with its teacher.
    """
    asked, images = teacher_folders(params, path) if objective.needs else [], params.batch_size * data.views_shown
    try:
        setting = LossContext(
            student=shapes_of(params, place, images),
            teacher=concat_embeddings([shapes_of(params_of(folder), place, images) for folder in asked]),
            labels=torch.from_numpy(data.training_labels()),
            seed=params.seed,
            views_shown=data.views_shown,
            classifier=_trained_classifier(asked[0], params, place) if "classifier" in objective.needs else None,
        )
        objective.prepare(setting)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    return setting


def begin(objective: Objective, student: nn.Module, path: Path) -> None:
    """Let the terms change what the student begins with.

    Raises:
        UserError: A term cannot be used for this network.
    """
    try:
        objective.begin(student)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def _trained_classifier(folder: Folder, params: Params, place: Runtime) -> nn.Linear | None:
    """A teacher's; with random weights before it is trained, for a dry run."""
    assert params.teacher is not None
    path = folder.checkpoint(params.teacher.weights)
    state = state_dict_of(load_checkpoint(path), path) if folder.is_trained() else None
    return classifier_of(params_of(folder), place, state)


def needed_folders(params: Params, path: Path) -> list[Folder]:
    """The folders that must be trained before this one: its teachers, where a term asks them, and where it starts."""
    teachers = teacher_folders(params, path) if build_objective(params).needs else []
    init = init_folder(params, path)
    return teachers if init is None else [*teachers, init]
