"""search.json: which values are tried, and what the folder of each combination is called.

The vocabulary is that of W&B's sweeps: `method`, `metric`, and `parameters` of `values` or `value`.
https://docs.wandb.ai/guides/sweeps/sweep-config-keys
Beside these, `choices` are values that belong together, under a name: {"choices": {"small": {"student.name": "cnn",
"batch_size": 128}, "large": {...}}}. Such a parameter's own name is free, and stands in folders' names and in tables.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from model.params import Strict, full_path
from utils import OptionError, UserError, nearest, read_json

SEARCH_FILE = "search.json"
METHODS = ("grid",)
LONGEST_NAME = 120  # file systems allow 255 bytes, people far less

ANCESTORS_GRID = {
    "alpha": [0.05, 0.1, 0.5, 0.95, 0.99],
    "temperature": [1.5, 2, 3, 4.5, 6, 8, 10, 20],
}


class Metric(Strict):
    """What the search wants much or little of: a key of the rows of metrics.jsonl."""

    name: str = "val_accuracy"
    goal: Literal["maximize", "minimize"] = "maximize"

    @field_validator("name")
    @classmethod
    def _is_not_a_test_metric(cls, name: str) -> str:
        if name.startswith("test"):
            raise ValueError(f'a search is decided on val, never on test, got "{name}"')
        return name

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values, None where there are none."""
        choose = max if self.goal == "maximize" else min
        return choose(values, default=None)


class Parameter(Strict):
    """The values of one parameter: several, which make runs, or one that all runs share; or several sets of values."""

    values: list[Any] = Field(default_factory=list, min_length=1)
    value: Any = None
    choices: dict[str, Annotated[dict[str, Any], Field(min_length=1)]] = Field(default_factory=dict, min_length=1)

    @field_validator("choices")
    @classmethod
    def _have_plain_names(cls, choices: dict[str, Any]) -> dict[str, Any]:
        for name in choices:
            if not name or _safe(name) != name:
                raise ValueError(f'a choice is a part of folders\' names: letters, digits and ._+- only, got "{name}"')
        return choices

    @field_validator("values")
    @classmethod
    def _are_distinct(cls, values: list[Any]) -> list[Any]:
        seen: set[str] = set()
        for value in values:
            if canonical(value) in seen:
                raise ValueError(f"the value {json.dumps(value)} stands twice")
            seen.add(canonical(value))
        return values

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Parameter:
        if len(self.model_fields_set) != 1:
            raise ValueError('needs either "values", a list, or "value", or "choices", an object')
        return self


def _parameter(given: Any) -> Any:
    if isinstance(given, list):
        return {"values": given}
    if not isinstance(given, dict):
        raise ValueError(f"must be a list of values or an object, got {json.dumps(given)}")
    return given


class Space(Strict):
    """search.json."""

    method: str = "grid"
    metric: Metric = Metric()
    parameters: Annotated[dict[str, Annotated[Parameter, BeforeValidator(_parameter)]], Field(min_length=1)]

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f'no method is named "{name}"{nearest(name, METHODS)}; known: {", ".join(METHODS)}')
        return name

    @property
    def varied(self) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """Parameter -> what each of its values is called in a folder's name, and what it puts into params.json."""
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for name, parameter in self.parameters.items():
            if parameter.values:
                found[name] = [(short(value), {name: value}) for value in parameter.values]
            elif parameter.choices:
                found[name] = list(parameter.choices.items())
        return found

    @property
    def shared(self) -> dict[str, Any]:
        return {name: each.value for name, each in self.parameters.items() if not each.values and not each.choices}


@dataclass(frozen=True)
class Point:
    """One combination: the values that it puts into params.json, and the name of its folder."""

    name: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in self.values.items())


def load_space(parent_dir: Path, base: dict[str, Any]) -> Space:
    """The space of a search's folder; without search.json the ancestor's grid of alpha and temperature.

    Args:
        base: The content of params.json, in our form; every parameter must be a value of it.

    Raises:
        UserError: An unknown key or parameter, no values or the same one twice, a method that there is not.
    """
    path = parent_dir / SEARCH_FILE
    if path.exists():
        raw, told = read_json(path), str(path)
    else:
        raw, told = {"parameters": ANCESTORS_GRID}, f"{parent_dir} holds no {SEARCH_FILE}, whose default does not fit"
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a JSON object, got {type(raw).__name__}")
    try:
        return _fitting(Space.model_validate(raw), base)
    except ValidationError as error:
        raise UserError(f"{told}: {_first(error)}") from None
    except OptionError as error:
        raise UserError(f"{told}: {error.under('parameters')}") from None


def _fitting(space: Space, base: dict[str, Any]) -> Space:
    if not space.varied:
        raise OptionError("", 'none has "values" or "choices", so there is nothing to search')
    taken: list[tuple[str, str, str]] = []  # parameter, choice, path
    for name, parameter in space.parameters.items():
        for choice, set_there in (parameter.choices or {"": {name: None}}).items():
            for key in set_there:
                shown = f"{name}.choices.{choice}.{key}" if parameter.choices else name
                path = _path(base, key, shown)
                for other, others_choice, other_path in taken:
                    overlap = f"{path}.".startswith(f"{other_path}.") or f"{other_path}.".startswith(f"{path}.")
                    if overlap and (other != name or others_choice == choice):
                        raise OptionError(shown, f'sets the same value as "{other}"')
                taken.append((name, choice, path))
    return space


def _path(base: dict[str, Any], key: str, shown: str) -> str:
    try:
        return full_path(base, key)
    except OptionError as error:
        raise OptionError(shown, error.message) from None


def _first(error: ValidationError) -> str:
    """The first of pydantic's errors as one line: key, what came, what is allowed."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        models: dict[int, type[Strict]] = {1: Space, 2: Metric, 3: Parameter}
        known = list(models[len(place)].model_fields)
        return f"{key}: unknown key{nearest(place[-1], known)}; known: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{key}: this key is needed"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}"
    if first["type"] == "too_short":
        return f"{key}: is empty"
    message = first["msg"].removeprefix("Input ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {json.dumps(first['input'])}"


# Points -------------------------------------------------------------------------------------------------------------


def points(space: Space) -> list[Point]:
    """All combinations; the last parameter varies fastest."""
    labels = _labels(list(space.varied))
    found = []
    for picked in itertools.product(*space.varied.values()):
        name = "_".join(f"{labels[key]}_{told}" for key, (told, _) in zip(space.varied, picked, strict=True))
        values = {key: value for _, set_here in picked for key, value in set_here.items()}
        found.append(Point(name, values | space.shared))
    return _with_unique_names(found)


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What each parameter is called in a folder's name: its last part, or all where two have the same last part.

    The name of a component ("student.name") is called like the component.
    """
    leaves = {name: name.removesuffix(".name").rpartition(".")[2] for name in names}
    count = Counter(leaves.values())
    return {name: leaf if count[leaf] == 1 else name for name, leaf in leaves.items()}


def _with_unique_names(found: list[Point]) -> list[Point]:
    count = Counter(point.name.casefold() for point in found)  # some file systems take "SGD" and "sgd" for one name
    return [
        replace(point, name=f"{point.name[: LONGEST_NAME - 9]}-{_digest(point.values)}")
        if count[point.name.casefold()] > 1 or len(point.name) > LONGEST_NAME
        else point
        for point in found
    ]


def short(value: Any) -> str:
    """A value as a part of a file's name: 4.0 is 4, {"kd": {"alpha": 0.9}} is kd_alpha_0.9, a path is a-path."""
    if isinstance(value, dict):
        parts = [short(part) if key == "name" else f"{_safe(key)}_{short(part)}" for key, part in value.items()]
        return "_".join(part.rstrip("_") for part in parts)
    if isinstance(value, list):
        return "-".join(short(part) for part in value)
    if isinstance(value, str):
        return _safe(value)
    return canonical(value)


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: 4.0 is 4, the order of keys does not count."""
    return json.dumps(_whole_numbers_as_int(value), sort_keys=True)


def _whole_numbers_as_int(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_numbers_as_int(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_whole_numbers_as_int(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip(".-")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(values).encode()).hexdigest()[:8]
