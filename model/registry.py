"""Registries: name -> function, whose signature is the schema of its options in params.json.

The program supplies the positional arguments (number of classes, channels, parameters); the user sets the keyword-only
ones. Options are validated against the type hints before anything is built; the error for an unknown one suggests the
nearest name.

A family is one function for all names with a prefix: `timm/...`. Its first argument is the rest of the name. `names()`
does not contain it, as it has no list of its members.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import OptionError, did_you_mean, option_error, preview
from .types import OptimizerOptions, ScheduleOptions, SplitOptions, TermOptions

F = TypeVar("F", bound=Callable[..., Any])
Common = TypeVar("Common")


class Registry(Generic[Common]):
    """Functions of one kind by name.

    Args:
        kind: What the functions build, for messages: "loss".
        common: A dataclass of the options that all functions of this kind have beside their own, or None.
    """

    def __init__(self, kind: str, common: type[Common] | None = None) -> None:
        self.kind = kind
        self.common = common
        dataclass: Callable[..., Any] | None = common
        self._common_options = {} if dataclass is None else _settable(dataclass)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._families: dict[str, Callable[..., Any]] = {}
        self._default_terms: dict[str, Common | None] = {}
        self._examples: dict[str, Mapping[str, Any]] = {}

    def register(
        self, name: str | F, *, default_term: Common | None = None, example: Mapping[str, Any] | None = None
    ) -> Any:
        """Use as `@NETS.register` (the function's own name) or `@LOSSES.register("kd")`.

        Args:
            default_term: Defaults of the common options under this name; those of their dataclass if not given.
            example: Values of params.json that it is used with, where the name alone is not enough.

        Raises:
            ValueError: The name is taken.
        """
        if not isinstance(name, str):
            return self.register(name.__name__)(name)

        def add(function: F) -> F:
            if name in self._functions:
                raise ValueError(f"the {self.kind} {name} is registered already")
            self._functions[name] = function
            self._default_terms[name], self._examples[name] = default_term, example or {}
            return function

        return add

    def register_family(self, prefix: str) -> Callable[[F], F]:
        """Use as `@NETS.register_family("timm")`: makes the function build every name that begins with `timm/`."""

        def add(function: F) -> F:
            if prefix in self._families:
                raise ValueError(f"the family {prefix} of {self.kind}s is registered already")
            self._families[prefix] = function
            return function

        return add

    def names(self) -> list[str]:
        return sorted(self._functions)

    def families(self) -> list[str]:
        """The prefixes of all families."""
        return sorted(self._families)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        prefix, _, rest = name.partition("/")
        if rest and prefix in self._families:
            return _member(self._families[prefix], rest)
        if name not in self._functions:
            known = [*self.names(), *(f"{prefix}/..." for prefix in self.families())]
            raise OptionError(
                "name", f"no {self.kind} is named {preview(name)}{did_you_mean(name, known)}; known: {', '.join(known)}"
            )
        return self._functions[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of a function: its keyword-only arguments, then the common ones."""
        own = _settable(self[name])
        if self.common is None:
            return own
        defaults = self._default_terms.get(name) or self.common()
        common = {key: each.replace(default=getattr(defaults, key)) for key, each in self._common_options.items()}
        return own | common

    def example(self, name: str) -> dict[str, Any]:
        """Values of params.json that the function is used with; empty where its name alone is enough."""
        return dict(self._examples.get(name, {}))

    def resolve(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Validate options against the signature and fill in all defaults.

        Raises:
            OptionError: An option is unknown or missing, or its value has the wrong type.
        """
        allowed = self.options(name)
        for key in options:
            if key not in allowed:
                listed = f"{name} has {', '.join(allowed)}" if allowed else f"{name} has no options"
                raise OptionError(
                    key, f"unknown option of {self.kind} {name}{did_you_mean(key, list(allowed))}; {listed}"
                )
        resolved = {}
        for key, parameter in allowed.items():
            if key in options:
                resolved[key] = _validate_option(key, options[key], parameter.annotation)
            elif parameter.default is inspect.Parameter.empty:
                raise OptionError(key, f"{self.kind} {name} needs this option")
            else:
                resolved[key] = parameter.default
        return resolved

    def build(self, name: str, *supplied: Any, **options: Any) -> Any:
        """Call the function with the supplied arguments and its own options, without the common ones.

        Raises:
            OptionError: An option does not match the signature, or the function raises ValueError.
        """
        resolved = self.resolve(name, options)
        own = {key: resolved[key] for key in _settable(self[name])}
        try:
            return self[name](*supplied, **own)
        except ValueError as error:
            raise OptionError("", str(error)) from error

    def common_options(self, name: str, options: Mapping[str, Any]) -> Common:
        """The common options only, as their dataclass.

        Raises:
            OptionError: An option does not match the signature, or the dataclass raises ValueError.
        """
        assert self.common is not None
        resolved = self.resolve(name, options)
        try:
            return self.common(**{key: resolved[key] for key in self._common_options})
        except ValueError as error:
            raise OptionError("", str(error)) from error


def _member(family: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function of one member of a family, with the signature and docstring of the family."""

    @functools.wraps(family)
    def make(*supplied: Any, **options: Any) -> Any:
        return family(name, *supplied, **options)

    return make


@functools.lru_cache(maxsize=1024)  # resolving the type hints takes longer than validating values
def _settable(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    # A class's hints live on its __init__; `from __future__ import annotations` makes them strings until resolved.
    target = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(target)
    return {
        key: parameter.replace(annotation=hints.get(key, Any))
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _validate_option(key: str, value: Any, annotation: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        return adapter.validate_json(json.dumps(value))  # as JSON: strict mode then accepts an array for a tuple
    except ValidationError as error:
        raise option_error(error, value).with_parent(key) from error


NETS: Registry[None] = Registry("network")
LOSSES: Registry[TermOptions] = Registry("loss", common=TermOptions)
DATASETS: Registry[SplitOptions] = Registry("data set", common=SplitOptions)
OPTIMIZERS: Registry[OptimizerOptions] = Registry("optimizer", common=OptimizerOptions)
SCHEDULES: Registry[ScheduleOptions] = Registry("schedule", common=ScheduleOptions)
SAMPLERS: Registry[None] = Registry("sampler")
PRUNERS: Registry[None] = Registry("pruner")
EXECUTORS: Registry[None] = Registry("executor")
FIGURES: Registry[None] = Registry("figure")
TABLE_FORMATS: Registry[None] = Registry("table format")
