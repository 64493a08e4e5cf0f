"""Optimizer and learning-rate schedule of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..config.params import Params
from ..errors import option_scope
from ..registry import OPTIMIZERS, SCHEDULES
from ..training.schedules import Schedule, warmed_up


def build_optimizer(params: Params, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    with option_scope("optimizer"):
        return cast(
            torch.optim.Optimizer, OPTIMIZERS.build(params.optimizer.name, parameters, **params.optimizer.options)
        )


def build_schedule(params: Params) -> Schedule:
    name, options = params.schedule.name, params.schedule.options
    with option_scope("schedule"):
        schedule: Schedule = SCHEDULES.build(name, params.num_epochs, **options)
        return warmed_up(schedule, SCHEDULES.common_options(name, options))
