"""What an earlier run left in a folder: was it this experiment, can it go on, and how it is cleared away."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import Any

from ..build.resolve import resolve_params
from ..build.runtime import Runtime
from ..config.dotted import differences
from ..config.folder import Folder
from ..config.params import Params, parse_params
from ..errors import UserError
from ..files import read_json
from .preflight import check_weights

WRITTEN_BY_A_RUN = (
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


def refuse_changed_params(folder: Folder, params: Params) -> None:
    """A run goes on only with the parameters that it began with.

    Raises:
        UserError: Some differ; they are listed with both values.
    """
    if not folder.resolved.exists():
        return
    before = read_json(folder.resolved)
    with suppress(UserError):  # of a version with other options; then they are compared as they stand
        before = resolve_params(parse_params(before, folder.resolved), folder.resolved).model_dump(mode="json")
    if changed := differences(before, params.model_dump(mode="json")):
        raise UserError(
            f"{folder.params}: changed since the run began: {'; '.join(changed)}; "
            "put it back, use another folder, or throw the run away with --restart"
        )


def remove_run(folder: Folder) -> None:
    for name in WRITTEN_BY_A_RUN:
        path = folder.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Folder) -> None:
    """Half-written files of a process that was killed while it wrote them."""
    for name in WRITTEN_BY_A_RUN:
        for path in folder.path.glob(f".{name}.*.tmp"):
            path.unlink()


def earlier_state(folder: Folder, steps_per_epoch: int, place: Runtime) -> dict[str, Any] | None:
    """last.pth.tar, found to be this run's; None where there is none.

    Raises:
        UserError: The file is cut short or of another run.
    """
    if not folder.checkpoint("last").exists():
        return None
    try:
        content = check_weights(folder, "last", place)
    except UserError as error:
        raise UserError(f"{error}; --restart begins anew") from None
    if "step" not in content or content.get("steps_per_epoch") != steps_per_epoch:
        raise UserError(
            f"{folder.checkpoint('last')}: is not this run's checkpoint (steps per epoch: "
            f"{content.get('steps_per_epoch')} there, {steps_per_epoch} here); --restart begins anew"
        )
    return content
