"""The trainer of an experiment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from model.build.data import split_options
from model.build.network import build_network, build_student
from model.build.objective import begin, build_objective, prepare_objective
from model.build.optimizer import build_optimizer, build_schedule
from model.build.runtime import Place
from model.build.weights import describe
from model.config.folder import Folder
from model.config.params import Params
from model.errors import UserError
from model.evaluation.cost import Cost, cost
from model.evaluation.metrics import metrics_of, predictions
from model.training.precision import placed, resolve_precision
from model.training.trainer import Trainer
from model.types import DataSource, Pipeline, Split, Teacher

EVAL_BATCH_SIZE = 1000


def build_trainer(
    folder: Folder,
    params: Params,
    place: Place,
    source: DataSource,
    data: Pipeline,
    teacher: Teacher | None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that a run needs, at step 0."""
    device, dtype, world = place.device, resolve_precision(params.precision, place.device), place.world
    torch.manual_seed(params.seed)
    student = world.synchronised(placed(build_student(params, source), device))
    objective = build_objective(params)
    prepare_objective(objective, params, folder.params, data, place)
    begin(objective, student, folder.params)
    objective.to(device)
    for loss in objective.of_a_share():
        world.synchronised(loss)
    parameters = [p for module in (student, objective) for p in module.parameters() if p.requires_grad]

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        batches = data.eval_batches(split, EVAL_BATCH_SIZE, world.share)
        said = predictions(net, batches, dtype=dtype, device=device)
        return metrics_of(said.gathered(lambda rows: world.gathered(rows, data.size(split))))

    return Trainer(
        student=student,
        teacher=teacher,
        objective=objective,
        optimizer=build_optimizer(params, parameters),
        schedule=build_schedule(params),
        data=data,
        evaluate=evaluate,
        folder=folder,
        describe=describe(params, source),
        batch_size=params.batch_size,
        num_epochs=params.num_epochs,
        seed=params.seed,
        device=device,
        dtype=dtype,
        gradient_clip=params.gradient_clip,
        checkpoint_minutes=params.checkpoint_minutes,
        should_stop=should_stop,
        world=world,
    )


def cost_of(params: Params, source: DataSource) -> Cost:
    """What the folder's network costs."""
    with torch.device("meta"):  # nothing is allocated, and no random number drawn
        return cost(build_network(params, source), source.image_shape)


def open_data(params: Params, folder: Folder, source: DataSource, place: Place) -> Pipeline:
    options = split_options(params)
    try:
        return source.open(options, seed=params.seed, device=place.device)
    except ValueError as error:
        raise UserError(f"{folder.params}: dataset: {error}") from None
