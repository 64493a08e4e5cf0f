"""Which values of params.json a search sets; two parameters must not set the same one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ...config.dotted import full_path, with_values
from ...errors import OptionError
from .parameter import Parameter
from .schema import Space


class SetValue(NamedTuple):
    """A value of params.json that a parameter sets.

    Args:
        parameter: Its name in search.json.
        choice: The choice that sets the value; None where the parameter has no choices.
        is_conditional: Whether it is searched within the choice.
        path: The dotted path in params.json.
        location: The dotted path in search.json.
    """

    parameter: str
    choice: str | None
    is_conditional: bool
    path: str
    location: str

    def conflicts_with(self, earlier: SetValue) -> bool:
        """Whether a run could have both although one is, or contains, the other."""
        if earlier.parameter == self.parameter and earlier.choice != self.choice:
            return False
        if self.is_conditional and not earlier.is_conditional and earlier.parameter == self.parameter:
            return is_inside(earlier.path, self.path)  # it may lie inside a value that its choice sets
        return is_inside(self.path, earlier.path) or is_inside(earlier.path, self.path)


def is_inside(path: str, outer: str) -> bool:
    """Whether a dotted path is the same as another one, or below it."""
    return f"{path}.".startswith(f"{outer}.")


def resolve_paths(space: Space, base: dict[str, Any]) -> list[str]:
    """The dotted paths in params.json of all values that the search sets.

    Args:
        base: The content of params.json.

    Raises:
        OptionError: Nothing is varied, params.json has no such value, or two parameters set the same one.
    """
    if not space.varied:
        raise OptionError("parameters", "none has several values or a range, so there is nothing to search")
    all_values: list[SetValue] = []
    for name, parameter in space.parameters.items():
        for value in _set_values(name, parameter, base):
            for earlier in all_values:
                if value.conflicts_with(earlier):
                    raise OptionError(value.location, f'sets the same value as "{earlier.parameter}"')
            all_values.append(value)
    return [value.path for value in all_values]


def _set_values(name: str, parameter: Parameter, base: dict[str, Any]) -> Iterator[SetValue]:
    location = f"parameters.{name}"
    if not parameter.choice_names:
        yield SetValue(name, None, False, _resolve(base, name, location), location)
    for choice in parameter.choice_names:
        values = parameter.values_of(name, choice)
        for key in values:
            inner = f"{location}.choices.{choice}.{key}"
            yield SetValue(name, choice, False, _resolve(base, key, inner), inner)
        changed = with_values(base, values)
        for key in parameter.conditional(choice):
            inner = f"{location}.choices.{choice}.{key}"
            yield SetValue(name, choice, True, _resolve(changed, key, inner), inner)


def _resolve(base: dict[str, Any], key: str, location: str) -> str:
    try:
        return full_path(base, key)
    except OptionError as error:
        raise OptionError(location, error.message) from None
