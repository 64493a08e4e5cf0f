"""The trainer of an experiment at step 0: student, objective, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..config.params import Component, EarlyStoppingParams
from ..errors import OptionError, option_scope
from ..evaluation.metrics import metrics_of, predict
from ..registry import OPTIMIZERS, SCHEDULES
from ..training.early_stopping import EarlyStopping
from ..training.ema import WeightAverage
from ..training.parallel import DistributedTrainer, DistributedTrainStep
from ..training.parameter_groups import parameter_groups, set_rates
from ..training.precision import to_device
from ..training.schedules import Schedule, warmed_up
from ..training.step import TrainStep
from ..training.trainer import Evaluate, Trainer
from ..types import Split, Teacher
from .freeze import freeze
from .network import find_classifier
from .seen import seen_images
from .weights import WeightsFile

if TYPE_CHECKING:
    from .experiment import Experiment


def build_trainer(
    experiment: Experiment,
    teacher: Teacher | None,
    *,
    sources: Sequence[WeightsFile] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that a run needs, at step 0.

    Args:
        sources: The weights that the run learns or starts from.

    Raises:
        UserError: A loss term cannot be used with these networks.
    """
    params, device, world = experiment.params, experiment.runtime.device, experiment.runtime.world
    context = experiment.loss_context
    torch.manual_seed(params.seed)
    student = world.convert_sync_batchnorm(to_device(experiment.student(), device))
    objective = experiment.new_objective()
    with experiment.naming_params():
        objective.prepare(context)
        objective.initialize_student(student)
        frozen = freeze(student, params.freeze, experiment.source.image_shape)
    objective.to(device)
    for loss in objective.per_shard_terms():
        world.convert_sync_batchnorm(loss)
    parts: dict[str, Any] = {
        "student": student,
        "teacher": teacher,
        "objective": objective,
        "seed": params.seed,
        "steps_per_epoch": experiment.steps_per_epoch,
        "frozen": frozen,
        "accumulate": params.accumulate,
        "device": device,
        "dtype": experiment.dtype,
    }
    if world.size == 1:
        train_step = TrainStep(**parts)
    else:
        train_step = DistributedTrainStep(**parts, world=world, data=experiment.data, batch_size=params.batch_size)
    with experiment.naming_params():
        run: dict[str, Any] = {
            "train_step": train_step,
            "optimizer": build_optimizer(params.optimizer, groups_of(experiment, student, objective.parameters())),
            "schedule": build_schedule(params.schedule, params.num_epochs, experiment.steps_per_epoch),
            "data": experiment.data,
            "evaluate": evaluation_of(experiment),
            "folder": experiment.folder,
            "describe": describe(experiment, sources) if world.is_rank_zero else {},
            "batch_size": params.batch_size,
            "num_epochs": params.num_epochs,
            "ema": None if params.ema is None else WeightAverage(student, **params.ema.model_dump()),
            "early_stopping": build_early_stopping(params.early_stopping),
            "gradient_clip": params.gradient_clip,
            "checkpoint_minutes": params.checkpoint_minutes,
            "should_stop": should_stop,
        }
    return Trainer(**run) if world.size == 1 else DistributedTrainer(**run, world=world)


def evaluation_of(experiment: Experiment) -> Evaluate:
    """A function that computes the metrics of a network on a split of the experiment's data.

    Test is computed in float32, as by evaluate.py: bfloat16 is rounded otherwise on other processors, by which some of
    10,000 images change sides.
    """
    data, world = experiment.data, experiment.runtime.world

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        batches = data.eval_batches(split, experiment.eval_batch_size, world.shard)
        dtype = torch.float32 if split == "test" else experiment.dtype
        shard = predict(net, batches, dtype=dtype, device=experiment.runtime.device)
        return metrics_of(shard.gather(lambda rows: world.all_gather(rows, data.size(split))))

    return evaluate


def groups_of(
    experiment: Experiment, student: nn.Module, others: Iterable[nn.Parameter] = ()
) -> Sequence[nn.Parameter] | Sequence[dict[str, Any]]:
    """What the optimizer is given: the student's parameters and those of loss terms, in groups where they differ.

    Raises:
        OptionError: An option does not suit the network.
    """
    optimizer, image_shape = experiment.params.optimizer, experiment.source.image_shape
    with option_scope("optimizer"):
        options = OPTIMIZERS.common_options(optimizer.name, optimizer.options)
        classifier = None
        if options.classifier_learning_rate is not None and (name := find_classifier(student, image_shape)):
            classifier = student.get_submodule(name)
        try:
            return parameter_groups(student, others, classifier, options)
        except ValueError as error:
            raise OptionError("", str(error)) from None


def build_optimizer(
    optimizer: Component, parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]]
) -> torch.optim.Optimizer:
    with option_scope("optimizer"):
        built: torch.optim.Optimizer = OPTIMIZERS.build(optimizer.name, parameters, **optimizer.options)
        return set_rates(built)


def build_schedule(schedule: Component, num_epochs: int, steps_per_epoch: int) -> Schedule:
    with option_scope("schedule"):
        factor: Schedule = SCHEDULES.build(schedule.name, num_epochs, steps_per_epoch, **schedule.options)
        return warmed_up(factor, SCHEDULES.common_options(schedule.name, schedule.options))


def build_early_stopping(options: EarlyStoppingParams | None) -> EarlyStopping | None:
    return None if options is None else EarlyStopping(**options.model_dump(), is_maximized=options.is_maximized)


def describe(experiment: Experiment, sources: Sequence[WeightsFile] = ()) -> dict[str, Any]:
    """What goes into a weights file beside the weights: the network, and what its results rest on."""
    source, params = experiment.source, experiment.params
    return {
        "student": params.student.model_dump(),
        "dataset": params.dataset.name,
        "num_classes": len(source.class_names),
        "class_names": list(experiment.class_names),
        "image_shape": list(source.image_shape),
        "mean": list(source.normalisation.mean),
        "std": list(source.normalisation.std),
        "fingerprint": experiment.data.fingerprint.as_json(),
        "params": params.model_dump(mode="json"),
        "seen": torch.from_numpy(seen_images(experiment, sources).view(np.int64)),
    }
