"""search.json: what is tried, by which method, and what counts as good.

The vocabulary is that of W&B's sweeps. https://docs.wandb.ai/guides/sweeps/sweep-config-keys

    method           grid; or what proposes one run after another: random, tpe (bayes), gp, cmaes, nsga2
    metric           {"name": "val_accuracy", "goal": "maximize"}, or a list of several
    parameters       name -> a list, {"values": [...]}, {"value": 3}, {"min": 0.1, "max": 0.9}, {"choices": {...}}
    run_cap          how many runs at most; every method but grid needs it
    early_terminate  {"type": "median", "min_iter": 3}: which runs are stopped before their end
    seeds, top       the first seed for all, the others for the best few; ours, as are search_seed and choices

A range has a `distribution`: uniform, q_uniform (min + a multiple of `q`), int_uniform, log_uniform_values. Where it is
left out, `q` means q_uniform, and two whole numbers mean int_uniform, unless the number in params.json has a point.

`choices` are values that belong together, under a name: {"choices": {"small": {"student.name": "cnn",
"batch_size": 128}, "large": {...}}}. Such a parameter's own name is free, and stands in folders' names and in tables.
A choice may have parameters of its own, which are searched only where it is chosen:

    "method": {"choices": {"alone": {"loss": {"ce": {}}},
                           "hinton": {"loss": {"kd": {}}, "loss.kd.alpha": {"values": [0.1, 0.9]}}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ...config.dotted import full_path, value_of, with_values
from ...config.params import Strict
from ...errors import OptionError, UserError, did_you_mean, preview
from ...files import read_json
from .naming import canonical, is_whole, safe_name

SEARCH_FILE = "search.json"
METHODS = ("grid", "random", "tpe", "gp", "cmaes", "nsga2")
ALIASES = {"bayes": "tpe"}
PACKAGES = {"gp": "scipy", "cmaes": "cmaes"}  # what a method needs beside Optuna
COSTS = ("parameters", "macs", "latency_ms", "seconds", "peak_memory_bytes", "images_per_second")  # of run.json

ANCESTORS_GRID = {
    "alpha": [0.05, 0.1, 0.5, 0.95, 0.99],
    "temperature": [1.5, 2, 3, 4.5, 6, 8, 10, 20],
}


def _number(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"must be a number, got {preview(given)}")
    return given


Number = Annotated[Any, AfterValidator(_number)]  # a whole number stays one


class Metric(Strict):
    """What the search wants much or little of: a key of the rows of metrics.jsonl, or one of COSTS in run.json.

    Args:
        goal: By default much of an accuracy and of images per second, and little of anything else.
    """

    name: str = "val_accuracy"
    goal: Literal["maximize", "minimize"] | None = None

    @field_validator("name")
    @classmethod
    def _is_not_a_test_metric(cls, name: str) -> str:
        if name.startswith("test"):
            raise ValueError(f'a search is decided on val, never on test, got "{name}"')
        return name

    @property
    def is_maximized(self) -> bool:
        is_good = self.name.endswith("accuracy") or self.name == "images_per_second"
        return self.goal == "maximize" or (self.goal is None and is_good)

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values, None where there are none."""
        return max(values, default=None) if self.is_maximized else min(values, default=None)


def is_parameter(content: Any) -> bool:
    """Whether what a choice sets a key to is no value, but a parameter of the choice's own."""
    keys = content.keys() if isinstance(content, dict) else set()
    return bool({"values", "min", "max", "distribution"} & keys) and "name" not in keys  # with a name: a component


def _kind_of_content(given: Any) -> str:
    return "(parameter)" if is_parameter(given) or isinstance(given, Parameter) else "(value)"


Content = Annotated[
    Annotated["Parameter", Tag("(parameter)")] | Annotated[Any, Tag("(value)")], Discriminator(_kind_of_content)
]


class Parameter(Strict):
    """One parameter: several values, one that all runs share, a range, or several sets of values."""

    values: list[Any] = Field(default_factory=list, min_length=1)
    value: Any = None
    choices: dict[str, Annotated[dict[str, Content], Field(min_length=1)]] = Field(default_factory=dict, min_length=1)
    min: Number = None
    max: Number = None
    q: Number = None
    distribution: Literal["uniform", "q_uniform", "int_uniform", "log_uniform_values"] | None = None

    @field_validator("choices")
    @classmethod
    def _have_plain_names(cls, choices: dict[str, Any]) -> dict[str, Any]:
        for name in choices:
            if not name or safe_name(name) != name:
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
    def _is_one_of_these(self) -> Parameter:
        kinds = {"range" if key in ("min", "max", "q", "distribution") else key for key in self.model_fields_set}
        if len(kinds) != 1:
            raise ValueError(
                'needs either "values", a list, or "value", or "choices", an object, or "min" and "max", a range'
            )
        if self.is_range:
            self._check_range()
        return self

    def _check_range(self) -> None:
        if self.min is None or self.max is None:
            raise ValueError('a range needs both "min" and "max"')
        if self.min >= self.max:
            raise ValueError(f"min must be less than max, got {preview(self.min)} and {preview(self.max)}")
        if self.distribution == "log_uniform_values" and self.min <= 0:
            raise ValueError(f"log_uniform_values needs a min above 0, got {preview(self.min)}")
        if self.distribution == "int_uniform" and not (is_whole(self.min) and is_whole(self.max)):
            raise ValueError(f"int_uniform needs whole numbers, got {preview(self.min)} and {preview(self.max)}")
        if (self.q is not None) != (self.distribution == "q_uniform") and self.distribution is not None:
            raise ValueError("q_uniform needs q, the distance of two values, and no other distribution has it")
        if self.q is not None and not 0 < self.q <= self.max - self.min:
            raise ValueError(f"q must be above 0 and at most max - min, got {preview(self.q)}")

    @property
    def is_range(self) -> bool:
        return not (self.values or self.choices or "value" in self.model_fields_set)

    @property
    def bounds(self) -> tuple[int | float, int | float]:
        """The ends of a range; with q_uniform, the last value that can be reached."""
        if self.q is None:
            return self.min, self.max
        steps = int((self.max - self.min) / self.q + 1e-9)
        return self.min, round(self.min + steps * self.q, 12)

    @property
    def options(self) -> list[Any]:
        """What can be picked, all of it: values, or the names of choices; of a range its two ends."""
        return self.values or list(self.choices) or list(self.bounds)


def _parameter(given: Any) -> Any:
    if isinstance(given, list):
        return {"values": given}
    if not isinstance(given, dict):
        raise ValueError(f"must be a list of values or an object, got {json.dumps(given)}")
    return given


class EarlyTerminate(Strict):
    """Which runs are stopped before their end (model/search/prune.py).

    Args:
        min_iter: No run is stopped before so many epochs.
        eta: Of hyperband and asha: one run in so many goes on from a rung, and the next rung is so many times higher.
    """

    type: Literal["median", "hyperband", "asha"]
    min_iter: Annotated[int, Field(ge=1)] = 3
    eta: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _has_what_it_uses(self) -> EarlyTerminate:
        if self.type == "median" and "eta" in self.model_fields_set:
            raise ValueError("eta belongs to hyperband and asha, median has none")
        return self


def _metrics(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


class Space(Strict):
    """search.json."""

    method: str = "grid"
    metric: Annotated[tuple[Metric, ...], BeforeValidator(_metrics), Field(min_length=1, strict=False)] = (Metric(),)
    parameters: Annotated[dict[str, Annotated[Parameter, BeforeValidator(_parameter)]], Field(min_length=1)]
    run_cap: Annotated[int, Field(ge=1)] | None = None
    search_seed: Annotated[int, Field(ge=0)] = 0
    early_terminate: EarlyTerminate | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)] | None = None
    top: Annotated[int, Field(ge=1)] = 3

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str) -> str:
        name = ALIASES.get(name, name)
        if name not in METHODS:
            raise ValueError(f'no method is named "{name}"{did_you_mean(name, METHODS)}; known: {", ".join(METHODS)}')
        return name

    @property
    def varied(self) -> dict[str, Parameter]:
        return {name: each for name, each in self.parameters.items() if "value" not in each.model_fields_set}

    @property
    def shared(self) -> dict[str, Any]:
        return {name: each.value for name, each in self.parameters.items() if "value" in each.model_fields_set}

    @property
    def has_proposals(self) -> bool:
        """Whether runs are proposed one after another; a grid is known from the start."""
        return self.method != "grid"


def load_space(parent_dir: Path, base: dict[str, Any]) -> Space:
    """The space of a search's folder; without search.json the ancestor's grid of alpha and temperature.

    Args:
        base: The content of params.json, in our form; every parameter must be a value of it.

    Raises:
        UserError: An unknown key or parameter, no values or the same one twice, a method that there is not, or keys
            that do not go together.
    """
    path = parent_dir / SEARCH_FILE
    if path.exists():
        raw, told = read_json(path), str(path)
    else:
        raw, told = {"parameters": ANCESTORS_GRID}, f"{parent_dir} holds no {SEARCH_FILE}, whose default does not fit"
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a JSON object, got {type(raw).__name__}")
    try:
        space = Space.model_validate(raw)
        paths = _checked_paths(space, base)
        _check_together(space, paths)
    except ValidationError as error:
        raise UserError(f"{told}: {_first(error)}") from None
    except OptionError as error:
        raise UserError(f"{told}: {error}") from None
    parameters = {name: _with_distribution(each, name, base) for name, each in space.parameters.items()}
    return space.model_copy(update={"parameters": parameters})


class _Setting(NamedTuple):
    """One value of params.json that the search sets."""

    parameter: str
    choice: str  # empty where the parameter has none
    is_inner: bool  # whether it is searched within the choice
    path: str
    place: str  # in search.json

    def excludes(self, other: _Setting) -> bool:
        """Whether both would be set at once though one is, or holds, the other."""
        if other.parameter == self.parameter and other.choice != self.choice:
            return False
        if self.is_inner and not other.is_inner and other.parameter == self.parameter:
            return f"{other.path}.".startswith(f"{self.path}.")  # it may go into what its choice sets
        return f"{self.path}.".startswith(f"{other.path}.") or f"{other.path}.".startswith(f"{self.path}.")


def _checked_paths(space: Space, base: dict[str, Any]) -> list[str]:
    """The dotted paths of all that is set, found to be values of params.json, and none of them set twice."""
    if not space.varied:
        raise OptionError("parameters", "none has several values or a range, so there is nothing to search")
    taken: list[_Setting] = []
    for name, parameter in space.parameters.items():
        for setting in _settings(name, parameter, base):
            for other in taken:
                if setting.excludes(other):
                    raise OptionError(setting.place, f'sets the same value as "{other.parameter}"')
            taken.append(setting)
    return [setting.path for setting in taken]


def _settings(name: str, parameter: Parameter, base: dict[str, Any]) -> Iterator[_Setting]:
    if not parameter.choices:
        place = f"parameters.{name}"
        yield _Setting(name, "", False, _path(base, name, place), place)
    for choice, content in parameter.choices.items():
        place = f"parameters.{name}.choices.{choice}"
        values, inner = split(content)
        for key in values:
            yield _Setting(name, choice, False, _path(base, key, f"{place}.{key}"), f"{place}.{key}")
        changed = with_values(base, values)
        for key in inner:
            yield _Setting(name, choice, True, _path(changed, key, f"{place}.{key}"), f"{place}.{key}")


def split(choice: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Parameter]]:
    """What a choice sets, and the parameters of its own."""
    inner = {key: content for key, content in choice.items() if isinstance(content, Parameter)}
    return {key: content for key, content in choice.items() if key not in inner}, inner


def _path(base: dict[str, Any], key: str, place: str) -> str:
    try:
        return full_path(base, key)
    except OptionError as error:
        raise OptionError(place, error.message) from None


def _check_together(space: Space, paths: Sequence[str]) -> None:
    """Refuse keys that do not go together."""
    names = [metric.name for metric in space.metric]
    if len(set(names)) < len(names):
        raise OptionError("metric", f"the same one stands twice: {', '.join(names)}")
    package = PACKAGES.get(space.method, "optuna")
    if space.has_proposals and find_spec(package) is None:
        raise OptionError("method", f"{space.method} needs a package that is not installed: pip install {package}")
    if space.has_proposals and space.run_cap is None:
        raise OptionError("run_cap", f'this key is needed, as the method "{space.method}" has no end of its own')
    if space.method == "grid":
        for place, parameter in _all_parameters(space.parameters):
            if parameter.is_range:
                others = ", ".join(METHODS[1:])
                raise OptionError(place, f'a grid needs "values"; methods that take a range: {others}')
    several = ", ".join(names)
    if len(names) > 1 and space.method == "cmaes":
        raise OptionError("method", f"cmaes takes one metric, got {several}; nsga2 and tpe take several")
    if len(names) > 1 and space.early_terminate:
        raise OptionError("early_terminate", f"goes with one metric only, got {several}")
    if len(names) > 1 and space.seeds:
        raise OptionError("seeds", f'"top" needs one metric that says which are the best, got {several}')
    if space.early_terminate and names[0] in COSTS:
        raise OptionError("early_terminate", f"needs a metric that every epoch tells, got {names[0]}")
    if space.seeds is None and "top" in space.model_fields_set:
        raise OptionError("top", 'says how many get all "seeds", and there are none')
    if space.seeds is not None and "seed" in paths:
        raise OptionError("seeds", 'the parameters set "seed", too')
    if space.seeds is not None and len(set(space.seeds)) < len(space.seeds):
        raise OptionError("seeds", f"the same one stands twice: {space.seeds}")


def _all_parameters(parameters: Mapping[str, Any], place: str = "parameters") -> Iterator[tuple[str, Parameter]]:
    for name, parameter in parameters.items():
        if isinstance(parameter, Parameter):
            yield f"{place}.{name}", parameter
            for choice, content in parameter.choices.items():
                yield from _all_parameters(content, f"{place}.{name}.choices.{choice}")


def _with_distribution(parameter: Parameter, key: str, base: dict[str, Any]) -> Parameter:
    """The same with every range's distribution filled in."""
    if parameter.choices:
        choices = {}
        for name, choice in parameter.choices.items():
            values, inner = split(choice)
            changed = with_values(base, values)
            choices[name] = values | {own: _with_distribution(each, own, changed) for own, each in inner.items()}
        return parameter.model_copy(update={"choices": choices})
    if not parameter.is_range or parameter.distribution is not None:
        return parameter
    if parameter.q is not None:
        return parameter.model_copy(update={"distribution": "q_uniform"})
    now: Any = None
    with suppress(OptionError):  # params.json may leave it out
        now = value_of(base, key)
    is_int = isinstance(parameter.min, int) and isinstance(parameter.max, int) and not isinstance(now, float)
    return parameter.model_copy(update={"distribution": "int_uniform" if is_int else "uniform"})


MODELS: dict[str, type[Strict]] = {"metric": Metric, "parameters": Parameter, "early_terminate": EarlyTerminate}


def _first(error: ValidationError) -> str:
    """The first of pydantic's errors as one line: key, what came, what is allowed."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("(parameter)", "(value)")]
    if place[:2] == ["metric", "0"]:
        del place[1]  # one metric need not stand in a list
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = list((MODELS.get(place[0], Space) if len(place) > 1 else Space).model_fields)
        return f"{key}: unknown key{did_you_mean(place[-1], known)}; known: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{key}: this key is needed"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}"
    if first["type"] == "too_short":
        return f"{key}: is empty"
    if first["type"] == "model_type":
        return f"{key}: should be an object, got {preview(first['input'])}"
    message = first["msg"].removeprefix("Input ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {json.dumps(first['input'])}"
