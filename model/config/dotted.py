"""Dotted paths: how values in a params.json are named, compared and replaced."""

from __future__ import annotations

import copy
import json
from typing import Any

from ..errors import OptionError, did_you_mean
from .params import PARAMS_FILE, Params

# Keys that say how a run is done, not what it computes: they may change between stopping and going on.
NON_RESULT_KEYS = ("description", "checkpoint_minutes")


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a nested object under its dotted path: {"loss.kd.alpha": 0.9, ...}; lists are values."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        path = f"{prefix}{key}"
        if isinstance(child, dict) and child:
            found |= flatten(child, f"{path}.")
        else:
            found[path] = child
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two params objects and matters for the result, one text a value."""
    old, new = flatten(before), flatten(now)
    return [
        f"{key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in NON_RESULT_KEYS
    ]


def full_path(params: dict[str, Any], name: str) -> str:
    """The dotted path that a name stands for: itself, or the only path that ends in it.

    What the file leaves out may be named, too: a top-level key of the schema, or by its whole path an option of
    something that the file has (`optimizer.momentum`); whether there is such an option is for the function to say.

    Raises:
        OptionError: Nothing has this name, or several do.
    """
    paths = _paths(params)
    if name in paths or name in Params.model_fields or isinstance(paths.get(name.rpartition(".")[0]), dict):
        return name
    ending = [path for path in paths if path.endswith(f".{name}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise OptionError(name, f"stands for several values: {', '.join(ending)}; write one of these")
    known = sorted({path.rpartition(".")[2] for path in paths} | paths.keys() | set(Params.model_fields))
    raise OptionError(name, f"no value of {PARAMS_FILE} has this name{did_you_mean(name, known)}")


def value_of(params: dict[str, Any], name: str) -> Any:
    """The value that a name stands for.

    Raises:
        OptionError: Nothing has this name, or several do, or the file leaves it out.
    """
    path, paths = full_path(params, name), _paths(params)
    if path not in paths:
        raise OptionError(name, f"is not in {PARAMS_FILE}")
    return paths[path]


def _paths(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value under its dotted path, the objects that hold others, too."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        found[f"{prefix}{key}"] = child
        if isinstance(child, dict):
            found |= _paths(child, f"{prefix}{key}.")
    return found


def with_values(params: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a params.json object with the named values (dotted paths or unique leaf names) replaced.

    A name stands for what it stands for in `params`, or else in what the values before it have put there.
    """
    changed = copy.deepcopy(params)
    for name, value in values.items():
        try:
            path = full_path(params, name)
        except OptionError:
            path = full_path(changed, name)
        *parents, leaf = path.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        place[leaf] = copy.deepcopy(value)
    return changed
