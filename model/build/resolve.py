"""Params with every default filled in: options are checked against the signatures of the registered functions."""

from __future__ import annotations

from typing import Any

from ..config.params import Component, Params
from ..errors import OptionError, did_you_mean, option_scope, preview
from ..registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry


def resolve_params(params: Params) -> Params:
    """The same experiment with every default filled in.

    Raises:
        OptionError: An option of a data set, network, loss, optimizer or schedule is wrong; names its key.
    """
    return params.model_copy(
        update={
            "dataset": _resolve("dataset", DATASETS, params.dataset),
            "student": _resolve("student", NETS, params.student),
            "loss": {name: _resolve_term(name, options) for name, options in params.loss.items()},
            "optimizer": _resolve("optimizer", OPTIMIZERS, params.optimizer),
            "schedule": _resolve("schedule", SCHEDULES, params.schedule),
        }
    )


def _resolve(key: str, registry: Registry[Any], component: Component) -> Component:
    with option_scope(key):
        return Component(name=component.name, **registry.resolve(component.name, component.options))


def _resolve_term(name: str, options: dict[str, Any]) -> dict[str, Any]:
    if name not in LOSSES.names():
        known = ", ".join(LOSSES.names())
        hint = did_you_mean(name, LOSSES.names())
        raise OptionError("loss", f"no loss is named {preview(name)}{hint}; known: {known}")
    with option_scope(f"loss.{name}"):
        return LOSSES.resolve(name, options)
