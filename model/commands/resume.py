"""What an earlier run left in a folder: whether it can be resumed, and how it is removed."""

from __future__ import annotations

import shutil
from contextlib import suppress

from ..build.experiment import Experiment
from ..build.weights import WeightsFile
from ..config.dotted import differences
from ..config.folder import Folder
from ..config.params import parse_params
from ..errors import UserError
from ..files import read_json

RUN_FILES = (
    "params_resolved.json",
    "run.json",
    "metrics.jsonl",
    "train.log",
    "tensorboard",
    "evaluation",
    "cache",
    *(f"metrics_{split}_{weights}_weights.json" for split in ("val", "test") for weights in ("best", "last")),
    "best.pth.tar",
    "last.pth.tar",
)


def refuse_changed_params(experiment: Experiment) -> None:
    """A run is resumed only with the parameters that it began with.

    Raises:
        UserError: Some differ; they are listed with both values.
    """
    folder = experiment.folder
    if not folder.resolved.exists():
        return
    before = read_json(folder.resolved)
    with suppress(UserError):  # of a version with other options; then they are compared as they are
        parsed = parse_params(before, folder.resolved)
        began = Experiment(folder.path, experiment.runtime, params=parsed, run_plugins=False)
        before = began.params.model_dump(mode="json")
    if changed := differences(before, experiment.params.model_dump(mode="json")):
        raise UserError(
            f"{folder.params}: changed since the run began: {'; '.join(changed)}; "
            "put it back, use another folder, or throw the run away with --restart"
        )


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
        file = experiment.weights("last")
    except UserError as error:
        raise UserError(f"{error}; --restart begins anew") from None
    steps = experiment.data.steps_per_epoch(experiment.params.batch_size)
    if "step" not in file.content or file.content.get("steps_per_epoch") != steps:
        raise UserError(
            f"{path}: is not this run's checkpoint (steps per epoch: "
            f"{file.content.get('steps_per_epoch')} in the file, {steps} now); --restart begins anew"
        )
    return file
