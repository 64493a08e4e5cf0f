"""One entry of "parameters" in search.json: a list of values, a constant, a range, or named choices.

    Values    [0.1, 0.9], or {"values": [0.1, 0.9]}
    Constant  {"value": 3}: the same in all runs
    Range     {"min": 0.1, "max": 0.9}
    Choices   {"choices": {"small": {"student.name": "cnn", "batch_size": 128}, "large": {...}}}

A range has a `distribution`: uniform, q_uniform (min + a multiple of `q`), int_uniform, log_uniform_values. Where it is
left out, `q` implies q_uniform, and two whole numbers imply int_uniform, unless params.json has a float at this key.

Choices are sets of values under names. The name of such a parameter is free; folder names and tables show it. A choice
may have parameters of its own (conditional parameters), which are searched only where it is picked:

    "method": {"choices": {"alone": {"loss": {"ce": {}}},
                           "hinton": {"loss": {"kd": {}}, "loss.kd.alpha": {"values": [0.1, 0.9]}}}}
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    field_validator,
    model_validator,
)

from ...config.dotted import value_of, with_values
from ...config.params import Strict
from ...errors import OptionError, preview
from .naming import canonical, is_whole_number, safe_name, short_name

P = TypeVar("P", bound="Parameter")


class Parameter(Strict, ABC):
    """What all kinds of parameters have in common.

    An option is what can be picked for a parameter: a value, or the name of a choice.
    """

    @property
    @abstractmethod
    def options(self) -> list[Any]:
        """All options; of a range its two ends."""

    @property
    def num_options(self) -> float:
        """The number of options, counted with all combinations of their conditional parameters."""
        return len(self.options)

    @property
    def is_varied(self) -> bool:
        """Whether it differs from run to run."""
        return True

    @property
    def is_enumerated(self) -> bool:
        """Whether `options` has all that can be picked."""
        return True

    @property
    def is_numeric(self) -> bool:
        """Whether it is a list of numbers."""
        return False

    @property
    def is_tabular(self) -> bool:
        """Whether its options can be the rows of a table: there are a few, and each is the same in all its runs."""
        return False

    @property
    def choice_names(self) -> list[str]:
        """The names of its choices; only Choices have some."""
        return []

    def values_of(self, key: str, option: Any) -> dict[str, Any]:
        """The values of params.json that an option sets: dotted path -> value."""
        return {key: option}

    def conditional(self, option: Any) -> dict[str, Parameter]:
        """The parameters that are searched only where an option is picked."""
        return {}

    def find(self, value: Any) -> Any:
        """The option that equals a value.

        Raises:
            LookupError: There is none.
        """
        for option in self.options:
            if canonical(option) == canonical(value):
                return option
        raise LookupError(value)

    def position(self, value: float) -> float | None:
        """Where a value is in a range, from 0 to 1 on the range's own scale; None where it is no range."""
        return None

    def with_distribution(self: P, key: str, base: dict[str, Any]) -> P:
        """The same with the distribution of every range filled in.

        Args:
            base: The content of params.json: a range of two whole numbers is one of floats where the value is a float.
        """
        return self

    def describe(self) -> str:
        """What is searched, in one line."""
        return ", ".join(map(short_name, self.options))


def constants(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values of the parameters that are constant."""
    return {key: parameter.options[0] for key, parameter in parameters.items() if not parameter.is_varied}


def varied(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The parameters that are not constant."""
    return {key: parameter for key, parameter in parameters.items() if parameter.is_varied}


def _check_distinct(values: list[Any]) -> list[Any]:
    seen: set[str] = set()
    for value in values:
        if canonical(value) in seen:
            raise ValueError(f"duplicate value {json.dumps(value)}")
        seen.add(canonical(value))
    return values


class Values(Parameter):
    """A list of values."""

    values: Annotated[list[Any], Field(min_length=1), AfterValidator(_check_distinct)]

    @property
    def options(self) -> list[Any]:
        return self.values

    @property
    def is_numeric(self) -> bool:
        return all(type(value) in (int, float) for value in self.values)

    @property
    def is_tabular(self) -> bool:
        return True


class Constant(Parameter):
    """A value that all runs share."""

    value: Any

    @property
    def options(self) -> list[Any]:
        return [self.value]

    @property
    def is_varied(self) -> bool:
        return False


def _check_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {preview(value)}")
    return value


Number = Annotated[float, PlainValidator(_check_number)]  # an int stays an int


class Range(Parameter):
    """All numbers between two, or those of them that the distribution allows.

    Args:
        q: Distance between two values of q_uniform.
        distribution: None until `with_distribution` has read params.json.
    """

    min: Number
    max: Number
    q: Number | None = None
    distribution: Literal["uniform", "q_uniform", "int_uniform", "log_uniform_values"] | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Range:
        if self.min >= self.max:
            raise ValueError(f"min must be less than max, got {preview(self.min)} and {preview(self.max)}")
        if self.distribution == "log_uniform_values" and self.min <= 0:
            raise ValueError(f"log_uniform_values needs a min above 0, got {preview(self.min)}")
        if self.distribution == "int_uniform" and not (is_whole_number(self.min) and is_whole_number(self.max)):
            raise ValueError(f"int_uniform needs whole numbers, got {preview(self.min)} and {preview(self.max)}")
        if self.distribution is not None and (self.q is not None) != (self.distribution == "q_uniform"):
            raise ValueError("q_uniform needs q, the distance between two values, and no other distribution has it")
        if self.q is not None and not 0 < self.q <= self.max - self.min:
            raise ValueError(f"q must be above 0 and at most max - min, got {preview(self.q)}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value; with q_uniform, the largest multiple of q that is not above max."""
        if self.q is None:
            return self.min, self.max
        steps = int((self.max - self.min) / self.q + 1e-9)
        return self.min, round(self.min + steps * self.q, 12)

    @property
    def options(self) -> list[Any]:
        return list(self.bounds)

    @property
    def is_enumerated(self) -> bool:
        return False

    @property
    def num_options(self) -> float:
        return math.inf

    def find(self, value: Any) -> Any:
        low, high = self.bounds
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise LookupError(value)
        if self.distribution == "int_uniform" and not is_whole_number(value):
            raise LookupError(value)
        steps = 0.0 if self.q is None else (value - low) / self.q
        if abs(steps - round(steps)) > 1e-8:
            raise LookupError(value)
        return value

    def position(self, value: float) -> float | None:
        low, high = self.bounds
        if self.distribution == "log_uniform_values":
            return math.log(value / low) / math.log(high / low) if value > 0 else None
        return (value - low) / (high - low)

    def rounded(self, value: float) -> float:
        """A value with few digits: to 1/1000 of the range or finer, or to four digits on a log scale."""
        low, high = self.bounds
        if self.distribution == "int_uniform":
            return int(value)
        if self.q is not None:
            return round(value, 12)
        scale = value if self.distribution == "log_uniform_values" else high - low
        return min(max(round(value, 3 - math.floor(math.log10(scale))), low), high)

    def with_distribution(self, key: str, base: dict[str, Any]) -> Range:
        if self.distribution is not None:
            return self
        if self.q is not None:
            return self.model_copy(update={"distribution": "q_uniform"})
        base_value: Any = None
        with suppress(OptionError):  # params.json may leave it out
            base_value = value_of(base, key)
        is_int = isinstance(self.min, int) and isinstance(self.max, int) and not isinstance(base_value, float)
        return self.model_copy(update={"distribution": "int_uniform" if is_int else "uniform"})

    def describe(self) -> str:
        low, high = self.bounds
        step = f" in steps of {self.q}" if self.q is not None else ""
        return f"{self.distribution} from {low} to {high}{step}"


def _is_parameter(content: Any) -> bool:
    """Whether what a choice has at a key is a conditional parameter, and not a value."""
    keys = content.keys() if isinstance(content, dict) else set()
    return bool({"values", "min", "max", "distribution"} & keys) and "name" not in keys  # with a name: a component


def _wrap_value(content: Any) -> Any:
    return content if _is_parameter(content) else {"value": content}


def _wrap_list(content: Any) -> Any:
    if isinstance(content, list):
        return {"values": content}
    if not isinstance(content, dict):
        raise ValueError(f"must be a list of values or an object, got {preview(content)}")
    return content


KIND_OF_KEY = {
    "values": "(values)",
    "value": "(value)",
    "choices": "(choices)",
    **dict.fromkeys(("min", "max", "q", "distribution"), "(range)"),
}


def _kind(content: dict[str, Any]) -> str | None:
    """The kind of parameter that the keys belong to; None where there are no keys, or keys of several kinds."""
    kinds = {KIND_OF_KEY[key] for key in content if key in KIND_OF_KEY}
    if content and not kinds:
        return "(values)"  # so that the unknown key is reported
    return kinds.pop() if len(kinds) == 1 else None


KIND = Discriminator(
    _kind,
    custom_error_type="parameter_kind",
    custom_error_message='needs either "values", a list, or "value", or "choices", an object, or "min" and "max"',
)

ChoiceEntry = Annotated[
    Annotated[Values, Tag("(values)")] | Annotated[Constant, Tag("(value)")] | Annotated[Range, Tag("(range)")],
    KIND,
    BeforeValidator(_wrap_value),
]


class Choices(Parameter):
    """Sets of values under names: name -> key -> a value, or a conditional parameter."""

    choices: Annotated[dict[str, Annotated[dict[str, ChoiceEntry], Field(min_length=1)]], Field(min_length=1)]

    @field_validator("choices")
    @classmethod
    def _check_names(cls, choices: dict[str, Any]) -> dict[str, Any]:
        for name in choices:
            if not name or safe_name(name) != name:
                raise ValueError(f'a choice is a part of folder names: only letters, digits and ._+-, got "{name}"')
        return choices

    @property
    def options(self) -> list[Any]:
        return list(self.choices)

    @property
    def choice_names(self) -> list[str]:
        return list(self.choices)

    @property
    def num_options(self) -> float:
        conditional = (self.conditional(name).values() for name in self.choices)
        return sum(math.prod(parameter.num_options for parameter in parameters) for parameters in conditional)

    @property
    def is_tabular(self) -> bool:
        return not any(self.conditional(name) for name in self.choices)

    def values_of(self, key: str, option: Any) -> dict[str, Any]:
        return constants(self.choices[option])

    def conditional(self, option: Any) -> dict[str, Parameter]:
        return varied(self.choices[option])

    def with_distribution(self, key: str, base: dict[str, Any]) -> Choices:
        choices = {}
        for name, choice in self.choices.items():
            changed = with_values(base, constants(choice))
            choices[name] = {
                inner_key: parameter.with_distribution(inner_key, changed) for inner_key, parameter in choice.items()
            }
        return self.model_copy(update={"choices": choices})


ParameterEntry = Annotated[
    Annotated[Values, Tag("(values)")]
    | Annotated[Constant, Tag("(value)")]
    | Annotated[Range, Tag("(range)")]
    | Annotated[Choices, Tag("(choices)")],
    KIND,
    BeforeValidator(_wrap_list),
]
