"""Find all runs below a folder and read their files.

A file that cannot be read leaves its values empty and adds a note to its run; the other files are read all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..config.dotted import flatten, value_of, with_values
from ..config.folder import Folder, Weights, state_of
from ..config.legacy import is_flat
from ..config.params import Params, load_params
from ..config.references import did_you_mean_folder, rebase_paths
from ..errors import OptionError, UserError
from ..files import is_number, is_there, parse_object, parse_rows
from ..search.space.search_file import SEARCH_FILE, read_space_if_valid

SPLITS = ("val", "test")
WEIGHTS: tuple[Weights, ...] = ("best", "last")  # of every run; "ema" of some
COSTS = ("seconds", "parameters", "macs", "latency_ms", "images_per_second", "peak_memory_bytes")  # of run.json
SKIPPED_FOLDERS = ("tensorboard", "evaluation", "cache", "figures")

LEGACY_NOTE = "val is the test set (legacy run)"


@dataclass(frozen=True)
class RunRecord:
    """One experiment folder, as its files describe it.

    Args:
        path: Relative to the parent folder that was given.
        params: Every value under its dotted path. A component's name and a teacher's folder are under the component's
            own key ("student": "cnn"), the names of the loss terms under "loss", and the name of a search's choice
            under the parameter that it is a choice of.
        written: The paths that are in params.json; the others are defaults.
        state: As `Folder.state`; None if there are results, but no run.json.
        metrics: (split, weights) -> the finite numbers of that metrics file.
        epochs: Completed epochs.
        costs: The numbers of run.json that are in `COSTS`.
        data: What identifies the data set's content, from run.json.
        teacher_weights: What identifies the weights of the teachers.
        val_seen: Images of val that a teacher, or the folder that the run started from, has seen in training.
        notes: Warnings about the numbers, and errors.
    """

    path: str
    params: dict[str, Any]
    written: frozenset[str]
    state: str | None
    metrics: dict[tuple[str, Weights], dict[str, float]]
    epochs: float | None
    costs: dict[str, float]
    data: str | None
    teacher_weights: str | None
    val_seen: float | None
    notes: tuple[str, ...]


def collect_runs(parent_dir: Path) -> list[RunRecord]:
    """All runs in and below a folder, in natural order of their paths: run_2 before run_10.

    A run is a folder with params.json or with results. The folder of a search is a run only if it has results of its
    own, the folder of generations never.

    Raises:
        UserError: The folder does not exist, or there is no run in it.
    """
    if not is_there(parent_dir, Path.is_dir):
        raise UserError(f"{parent_dir}: no such folder{did_you_mean_folder(parent_dir)}")
    runs = []
    for path, children, _ in os.walk(parent_dir):
        children[:] = [child for child in children if not child.startswith(".") and child not in SKIPPED_FOLDERS]
        folder = Folder(Path(path))
        if _read_object(folder.params, []).get("generations") is not None:
            continue  # the runs are its generations
        if _has_results(folder) or (folder.params.exists() and not (folder.path / SEARCH_FILE).exists()):
            runs.append(_read_run(folder, parent_dir))
    if not runs:
        raise UserError(f"no runs under {parent_dir}: no folder in it holds a params.json or metrics")
    return sorted(runs, key=lambda run: natural_order(run.path))


def natural_order(path: str) -> list[tuple[str, int]]:
    """A sort key that compares numbers inside the text by value."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", path)]


def schema_position(path: str) -> int:
    """A sort key: dotted paths in the order of the schema, after the parameters with choices of a search (-1)."""
    key, keys = path.partition(".")[0], list(Params.model_fields)
    return keys.index(key) if key in keys else -1


def format_value(value: Any) -> str:
    """A parameter as a user would type it; 4.0 becomes 4."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _has_results(folder: Folder) -> bool:
    files = [folder.metrics(split, weights) for split in SPLITS for weights in WEIGHTS]
    return any(file.exists() for file in [folder.run, folder.history, *files])


def _read_run(folder: Folder, parent_dir: Path) -> RunRecord:
    notes: list[str] = []
    run = _read_object(folder.run, notes)
    if run.get("error"):
        notes.append(str(run["error"]))
    metrics = {
        (split, weights): _numbers(_read_object(folder.metrics(split, weights), notes))
        for split in SPLITS
        for weights in get_args(Weights)
        if weights in WEIGHTS or folder.metrics(split, weights).exists()
    }
    params, written = _read_params(folder, notes)
    choices = _choices(folder)
    params, written = choices | params, written | choices.keys()
    if _is_legacy_result(folder, metrics["val", "best"] or metrics["val", "last"]):
        notes.append(LEGACY_NOTE)
    return RunRecord(
        path=folder.path.relative_to(parent_dir).as_posix(),
        params=params,
        written=written,
        state=_state(folder, run),
        metrics=metrics,
        epochs=_epochs(folder, run, notes),
        costs={name: value for name, value in _numbers(run).items() if name in COSTS},
        data=_identity(run.get("fingerprint")),
        teacher_weights=_identity(run.get("teacher")),
        val_seen=_val_seen(run.get("seen")),
        notes=tuple(notes),
    )


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return parse_object(path)
    except ValueError as error:
        notes.append(f"{path.name}: {error}")
        return {}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if is_number(value)}


def _read_params(folder: Folder, notes: list[str]) -> tuple[dict[str, Any], frozenset[str]]:
    resolved = _read_object(folder.resolved, notes)
    try:
        params = load_params(folder.path)
    except UserError as error:
        if folder.params.exists():
            notes.append(str(error).removeprefix(f"{folder.path}/"))
        values = _by_path(resolved)
        return values, frozenset(values)
    written = _by_path(params.model_dump(exclude_unset=True))
    return _by_path(resolved or params.model_dump()), frozenset(written)


def _choices(folder: Folder) -> dict[str, str]:
    """The choices that a search made for this run: parameter -> name of the choice."""
    raw, parent_dir = _read_object(folder.params, []), folder.path.parent
    space = read_space_if_valid(parent_dir)
    choices = {}
    for name, parameter in space.parameters.items() if space else ():
        for choice in parameter.choice_names:
            with suppress(OptionError):  # it sets a value that this run does not have
                values = rebase_paths(parameter.values_of(name, choice), parent_dir)
                searched = {key: value_of(raw, key) for key in parameter.conditional(choice)}
                if with_values(raw, values | searched) == raw:
                    choices[name] = choice
    return choices


def _by_path(params: dict[str, Any]) -> dict[str, Any]:
    terms = params.get("loss")
    if isinstance(terms, dict):
        params = params | {"loss": {"name": " + ".join(sorted(terms)), **terms}}
    return {
        path.removesuffix(".name").removesuffix(".model_dir"): value
        for path, value in flatten(params).items()
        if value not in (None, {})
    }


def _identity(value: Any) -> str | None:
    """A short text that two equal JSON objects share; None for an empty one."""
    if not isinstance(value, dict) or not value:
        return None
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _val_seen(seen: Any) -> float | None:
    counts = [each.get("val") for each in seen.values() if isinstance(each, dict)] if isinstance(seen, dict) else []
    return max((float(count) for count in counts if count is not None and is_number(count)), default=None)


def _is_legacy_result(folder: Folder, val_metrics: dict[str, float]) -> bool:
    """Whether knowledge-distillation-pytorch wrote these results, whose best epoch was chosen on the test set.

    Results of this project always contain `num_samples`.
    """
    params = _read_object(folder.params, [])
    return (
        bool(val_metrics)
        and "num_samples" not in val_metrics
        and not folder.run.exists()
        and (is_flat(params) or not params)
    )


def _state(folder: Folder, run: dict[str, Any]) -> str | None:
    if run:
        return state_of(run)
    return None if _has_results(folder) else "new"


def _epochs(folder: Folder, run: dict[str, Any], notes: list[str]) -> float | None:
    history, problem = parse_rows(folder.history)
    if problem:
        notes.append(f"{folder.history.name}: {problem}")
    return _numbers(history[-1] if history else run).get("epoch")
