"""Retort: knowledge distillation in PyTorch, one folder per experiment.

What notebooks and plug-ins use is imported from here:

    from retort import Experiment, load, results    # `retort` is this package: its folder is `model` in a checkout

A name is imported when it is first read: `results` does not import torch. Reading a registry imports all its entries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from .build.experiment import Experiment
    from .build.runtime import Runtime
    from .config.folder import Weights
    from .data.memory import Arrays, Augmentation, MemorySource
    from .errors import RunFailed, Stopped, UserError
    from .losses.base import DistillLoss
    from .losses.maps import paired
    from .registry import (
        DATASETS,
        EXECUTORS,
        FIGURES,
        LOSSES,
        NETS,
        OPTIMIZERS,
        PRUNERS,
        SAMPLERS,
        SCHEDULES,
        TABLE_FORMATS,
    )
    from .report.dataframe import results
    from .types import (
        Batch,
        DataSource,
        LossContext,
        Normalisation,
        Output,
        Pipeline,
        ScheduleOptions,
        Shard,
        SplitOptions,
        TermOptions,
        Views,
    )

__all__ = [
    "DATASETS",
    "EXECUTORS",
    "FIGURES",
    "LOSSES",
    "NETS",
    "OPTIMIZERS",
    "PRUNERS",
    "SAMPLERS",
    "SCHEDULES",
    "TABLE_FORMATS",
    "Arrays",
    "Augmentation",
    "Batch",
    "DataSource",
    "DistillLoss",
    "Experiment",
    "LossContext",
    "MemorySource",
    "Normalisation",
    "Output",
    "Pipeline",
    "RunFailed",
    "Runtime",
    "ScheduleOptions",
    "Shard",
    "SplitOptions",
    "Stopped",
    "TermOptions",
    "UserError",
    "Views",
    "load",
    "paired",
    "results",
]

_NAMES = {  # by the module that they are defined in
    "build.experiment": ("Experiment",),
    "build.runtime": ("Runtime",),
    "data.memory": ("Arrays", "Augmentation", "MemorySource"),
    "errors": ("RunFailed", "Stopped", "UserError"),
    "losses.base": ("DistillLoss",),
    "losses.maps": ("paired",),
    "registry": (
        *("DATASETS", "EXECUTORS", "FIGURES", "LOSSES", "NETS", "OPTIMIZERS"),
        *("PRUNERS", "SAMPLERS", "SCHEDULES", "TABLE_FORMATS"),
    ),
    "report.dataframe": ("results",),
    "types": (
        *("Batch", "DataSource", "LossContext", "Normalisation", "Output", "Pipeline"),
        *("ScheduleOptions", "Shard", "SplitOptions", "TermOptions", "Views"),
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_ENTRIES = {  # registry -> the package that registers its entries when it is imported
    **dict.fromkeys(("DATASETS", "LOSSES", "NETS", "OPTIMIZERS", "SCHEDULES"), "build"),
    **dict.fromkeys(("PRUNERS", "SAMPLERS"), "search.sampling"),
    "EXECUTORS": "search.executors",
    "FIGURES": "report.figures",
    "TABLE_FORMATS": "report.formats",
}


def load(path: str | Path, which: Weights = "best", runtime: Runtime | None = None) -> nn.Module:
    """The trained network of a folder in eval mode, with `class_names` and `preprocess` as attributes.

    Args:
        path: An experiment folder.
        which: Its "best" weights, those of the highest accuracy on val, its "last", or their average, "ema".
        runtime: The network's device, and the folder of the data sets; by default a GPU where there is one, and `data`.

    Raises:
        UserError: params.json is wrong, or the weights file is missing, cut short, or another network's.
    """
    from .build.experiment import Experiment

    return Experiment(path, runtime).load(which)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _ENTRIES:
        import_module(f".{_ENTRIES[name]}", __name__)
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
