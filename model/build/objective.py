"""The objective of an experiment, and what its terms are given before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import OptionError, option_scope
from ..losses.objective import Objective
from ..registry import LOSSES
from ..types import LossContext
from .network import concat_embeddings, select_rows
from .teacher import teacher_output_shapes

if TYPE_CHECKING:
    from .experiment import Experiment


def build_objective(terms: dict[str, dict[str, Any]]) -> Objective:
    """The weighted sum of loss terms.

    Args:
        terms: Name of a loss -> its options.

    Raises:
        OptionError: An option is wrong, or no term has a weight above 0.
    """
    losses = {}
    for name, options in terms.items():
        with option_scope(f"loss.{name}"):
            losses[name] = (LOSSES.build(name, **options), LOSSES.common_options(name, options))
    try:
        return Objective(losses)
    except ValueError as error:
        raise OptionError("loss", str(error)) from None


def build_loss_context(experiment: Experiment) -> LossContext:
    """Shapes of both networks' outputs, the training labels, and the teacher's classifier where a term reads it."""
    data = experiment.data
    num_images = experiment.params.batch_size * data.views_shown
    teachers = experiment.teachers_in_use
    reads_classifier = "classifier" in experiment.objective.needs
    return LossContext(
        student=experiment.output_shapes(num_images),
        teacher=concat_embeddings([teacher_output_shapes(experiment, teacher, num_images) for teacher in teachers]),
        labels=torch.from_numpy(data.training_labels()),
        seed=experiment.params.seed,
        class_names=experiment.class_names,
        views_shown=data.views_shown,
        classifier=_teacher_classifier(experiment) if reads_classifier else None,
    )


def _teacher_classifier(experiment: Experiment) -> nn.Linear | None:
    """The first teacher's; with random weights before it is trained, for a dry run."""
    teacher = experiment.teachers_in_use[0]
    weights, groups = experiment.teacher_options.weights, experiment.classes_of_teacher(teacher)
    classifier = teacher.classifier(weights if teacher.is_trained else None)
    if classifier is not None and groups is not None:
        if any(len(group) > 1 for group in groups):
            with experiment.naming_params():
                raise OptionError("loss", f"the classifier of {teacher.name} has several rows for one class")
        select_rows(classifier, [column for (column,) in groups])
    return classifier
