"""Dotted paths, which name values in a params.json: flatten, compare, look up, replace."""

from __future__ import annotations

import copy
import json
from typing import Any

from ..errors import OptionError, did_you_mean
from .params import PARAMS_FILE, Params

# Keys that do not influence the result: they may change between an interruption and the resume.
NON_RESULT_KEYS = ("description", "baseline", "checkpoint_minutes")


def flatten(params: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a nested object under its dotted path: {"loss.kd.alpha": 0.9, ...}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The values that differ between two params objects and influence the result, one text each."""
    old, new = flatten(before), flatten(now)
    return [
        f"{key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in NON_RESULT_KEYS
    ]


def full_path(params: dict[str, Any], name: str) -> str:
    """Resolve a name to its dotted path: the name itself, or the only path that ends in it.

    A name may also stand for a value that `params` does not contain: any top-level key of the schema, and by its full
    path an option of a component that `params` contains (`optimizer.momentum`). Whether the component has this option
    is not checked here.

    Raises:
        OptionError: No value has this name, or several do.
    """
    paths = _nested_values(params)
    parent, _, _ = name.rpartition(".")
    if name in paths or name in Params.model_fields or isinstance(paths.get(parent), dict):
        return name
    matches = [path for path in paths if path.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise OptionError(name, f"is ambiguous, write one of: {', '.join(matches)}")
    known = sorted({path.rpartition(".")[2] for path in paths} | paths.keys() | set(Params.model_fields))
    raise OptionError(name, f"no value of {PARAMS_FILE} has this name{did_you_mean(name, known)}")


def value_of(params: dict[str, Any], name: str) -> Any:
    """Look up the value of a dotted path or a unique leaf name.

    Raises:
        OptionError: No value has this name, several do, or `params` does not contain it.
    """
    path, paths = full_path(params, name), _nested_values(params)
    if path not in paths:
        raise OptionError(name, f"is not in {PARAMS_FILE}")
    return paths[path]


def _nested_values(params: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value under its dotted path, objects and their values alike."""
    values: dict[str, Any] = {}
    for key, value in params.items():
        values[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            values |= _nested_values(value, f"{prefix}{key}.")
    return values


def with_values(params: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a params.json object with the named values (dotted paths or unique leaf names) replaced.

    Names are resolved against `params`; a name that `params` does not know, against the copy with the values so far.
    """
    changed = copy.deepcopy(params)
    for name, value in values.items():
        try:
            path = full_path(params, name)
        except OptionError:
            path = full_path(changed, name)
        *parents, leaf = path.split(".")
        target = changed
        for parent in parents:
            target = target[parent]
        target[leaf] = copy.deepcopy(value)
    return changed
