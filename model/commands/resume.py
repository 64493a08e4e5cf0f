"""What an earlier run left in a folder: whether it can be resumed, and how it is removed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, get_args

from ..build.experiment import Experiment
from ..build.weights import WeightsFile
from ..config.dotted import differences
from ..config.folder import Folder, Weights
from ..config.params import parse_params
from ..errors import UserError
from ..files import read_intact

RUN_FILES = (
    "params_resolved.json",
    "run.json",
    "metrics.jsonl",
    "train.log",
    "tensorboard",
    "evaluation",
    "cache",
    *(f"metrics_{split}_{weights}_weights.json" for split in ("val", "test") for weights in get_args(Weights)),
    *(f"{weights}.pth.tar" for weights in get_args(Weights)),
)


# Values that change no result. Data, teachers, initial weights and plug-ins are compared by their content instead.
WITHOUT_INFLUENCE = (
    *("description", "compile", "checkpoint_minutes", "plugins"),
    *("dataset.path", "dataset.root", "dataset.num_workers", "teacher.model_dir", "init.model_dir"),
)


def refuse_changed_params(experiment: Experiment) -> None:
    """A run is resumed only with the parameters that it began with.

    Raises:
        UserError: Some that have an influence on results differ; they are listed with both values.
    """
    folder = experiment.folder
    before = read_intact(folder.resolved) or _params_in_checkpoint(folder)
    if not before:
        return
    with suppress(UserError):  # of a version with other options; then they are compared as they are
        parsed = parse_params(before, folder.resolved)
        began = Experiment(folder.path, experiment.runtime, params=parsed, run_plugins=False)
        before = began.params.model_dump(mode="json")
    now = experiment.params.model_dump(mode="json")
    if changed := differences(*(_without(params, WITHOUT_INFLUENCE) for params in (before, now))):
        raise UserError(
            f"{folder.params}: changed since the run began: {'; '.join(changed)}; "
            "put it back, use another folder, or throw the run away with --restart"
        )


def _params_in_checkpoint(folder: Folder) -> dict[str, Any]:
    """The params that a run began with, where params_resolved.json is missing or damaged."""
    path = folder.checkpoint("last")
    params: dict[str, Any] = WeightsFile.read(path).content.get("params", {}) if path.exists() else {}
    return params


def _without(params: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy without the values of some dotted paths."""
    copied = copy.deepcopy(params)
    for path in paths:
        *parents, leaf = path.split(".")
        target: Any = copied
        for parent in parents:
            target = target.get(parent) or {}
        target.pop(leaf, None)
    return copied


def remove_run(folder: Folder) -> None:
    for name in RUN_FILES:
        path = folder.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_temporary_files(folder: Folder) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for name in RUN_FILES:
        for path in folder.path.glob(f".{name}.*.tmp"):
            path.unlink()


def read_last_checkpoint(experiment: Experiment) -> WeightsFile | None:
    """last.pth.tar, checked to be this run's; None where there is none.

    Raises:
        UserError: The file is cut short or another run's.
    """
    path = experiment.folder.checkpoint("last")
    if not path.exists():
        return None
    try:
        file = WeightsFile.read(path)
        refuse_changed_data(experiment, file)
        file.check(experiment.network_on_meta())
    except UserError as error:
        raise UserError(f"{error}; --restart begins anew") from None
    steps = experiment.steps_per_epoch
    if "step" not in file.content or file.content.get("steps_per_epoch") != steps:
        raise UserError(
            f"{path}: is not this run's checkpoint (steps per epoch: "
            f"{file.content.get('steps_per_epoch')} in the file, {steps} now); --restart begins anew"
        )
    return file


def refuse_changed_data(experiment: Experiment, checkpoint: WeightsFile) -> None:
    """A run is resumed only with the images and classes that it began with.

    Raises:
        UserError: They differ.
    """
    if checkpoint.class_names is not None and checkpoint.class_names != experiment.class_names:
        before, now = (", ".join(names) for names in (checkpoint.class_names, experiment.class_names))
        raise UserError(f"{experiment.name}: its classes changed since the run began: {now}; they were {before}")
    if changes := experiment.data.fingerprint.changes_since(checkpoint.content.get("fingerprint", {})):
        raise UserError(f"{experiment.name}: its data changed since the run began: {changes}")
