"""The trainer of an experiment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..config.folder import Folder
from ..config.params import Params
from ..errors import UserError
from ..evaluation.cost import Cost, cost
from ..evaluation.metrics import metrics_of, predict
from ..training.precision import resolve_precision, to_device
from ..training.trainer import Trainer
from ..types import DataSource, Pipeline, Split, Teacher
from .data import split_options
from .network import build_network, build_student
from .objective import begin, build_objective, prepare_objective
from .optimizer import build_optimizer, build_schedule
from .runtime import Runtime
from .weights import describe

EVAL_BATCH_SIZE = 1000


def build_trainer(
    folder: Folder,
    params: Params,
    place: Runtime,
    source: DataSource,
    data: Pipeline,
    teacher: Teacher | None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that a run needs, at step 0."""
    device, dtype, world = place.device, resolve_precision(params.precision, place.device), place.world
    torch.manual_seed(params.seed)
    student = world.convert_sync_batchnorm(to_device(build_student(params, source), device))
    objective = build_objective(params)
    prepare_objective(objective, params, folder.params, data, place)
    begin(objective, student, folder.params)
    objective.to(device)
    for loss in objective.per_shard_terms():
        world.convert_sync_batchnorm(loss)
    parameters = [p for module in (student, objective) for p in module.parameters() if p.requires_grad]

    def evaluate(net: nn.Module, split: Split) -> dict[str, float]:
        batches = data.eval_batches(split, EVAL_BATCH_SIZE, world.shard)
        said = predict(net, batches, dtype=dtype, device=device)
        return metrics_of(said.gather(lambda rows: world.all_gather(rows, data.size(split))))

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


def open_data(params: Params, folder: Folder, source: DataSource, place: Runtime) -> Pipeline:
    options = split_options(params)
    try:
        return source.open(options, seed=params.seed, device=place.device)
    except ValueError as error:
        raise UserError(f"{folder.params}: dataset: {error}") from None
