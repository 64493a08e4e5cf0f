"""Reading search.json, and checking it against params.json, its sampler and its pruner."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import OptionError, UserError, option_error, option_scope, preview
from ...files import read_json
from ...registry import PRUNERS, SAMPLERS, Registry
from ..sampling.base import Sampler  # importing its package registers samplers and pruners
from .conflicts import resolve_paths
from .points import axes
from .schema import EarlyTerminate, Space

SEARCH_FILE = "search.json"

LEGACY_GRID = {  # of knowledge-distillation-pytorch
    "alpha": [0.05, 0.1, 0.5, 0.95, 0.99],
    "temperature": [1.5, 2, 3, 4.5, 6, 8, 10, 20],
}


def load_space(parent_dir: Path, base: dict[str, Any]) -> Space:
    """The space of a search's folder, checked and with every default filled in.

    Args:
        base: The content of params.json, in our form; every parameter must be a value of it.

    Raises:
        UserError: As `read_space`; or an unknown parameter or method, or keys that do not go together.
    """
    space = read_space(parent_dir)
    try:
        check_space(space, base)
    except OptionError as error:
        raise UserError(f"{_source(parent_dir)}: {error}") from None
    return with_defaults(space, base)


def read_space(parent_dir: Path) -> Space:
    """The space of a search's folder, as search.json has it; LEGACY_GRID where there is no such file.

    Enough for reports, which need neither params.json nor the packages of the sampler.

    Raises:
        UserError: No JSON, an unknown key, or a value of the wrong form.
    """
    path = parent_dir / SEARCH_FILE
    raw = read_json(path) if path.exists() else {"parameters": LEGACY_GRID}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a JSON object, got {preview(raw)}")
    try:
        return Space.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{_source(parent_dir)}: {option_error(error, raw, Space)}") from None


def read_space_if_valid(parent_dir: Path) -> Space | None:
    """The space of a folder, None if it is no search's folder or its search.json is broken."""
    if not (parent_dir / SEARCH_FILE).exists():
        return None
    with suppress(UserError):
        return read_space(parent_dir)
    return None


def _source(parent_dir: Path) -> str:
    path = parent_dir / SEARCH_FILE
    return str(path) if path.exists() else f"{parent_dir} holds no {SEARCH_FILE}, whose default does not fit"


def check_space(space: Space, base: dict[str, Any]) -> None:
    """Check a space against params.json, its sampler and its pruner.

    Raises:
        OptionError: An unknown parameter, sampler or pruner, or keys that do not go together.
    """
    sampler: type[Sampler] = _registered(SAMPLERS, space.method, "method")
    _check_names(space)
    paths = resolve_paths(space, base)
    _check_metrics(space)
    _check_sampler(space, sampler)
    _check_pruner(space)
    _check_seeds(space, paths)


def with_defaults(space: Space, base: dict[str, Any]) -> Space:
    """The same with the distribution of every range and all options of the pruner filled in."""
    parameters = {name: parameter.with_distribution(name, base) for name, parameter in space.parameters.items()}
    rule = space.early_terminate
    if rule is not None:
        rule = EarlyTerminate(type=rule.type, **PRUNERS.resolve(rule.type, rule.options))
    return space.model_copy(update={"parameters": parameters, "early_terminate": rule})


def _registered(registry: Registry[None], name: str, key: str) -> Any:
    try:
        return registry[name]
    except OptionError as error:
        raise OptionError(key, error.message) from None


def _check_names(space: Space) -> None:
    """A parameter's name is a part of folder names: it must not lead out of the search's folder."""
    for axis in axes(space):
        if Path(axis.key).name != axis.key or axis.key.startswith(".") or not axis.key.isprintable():
            raise OptionError(
                axis.location, f"the name is a part of folder names, which cannot hold {preview(axis.key)}"
            )


def _check_metrics(space: Space) -> None:
    names = [metric.name for metric in space.metric]
    if len(set(names)) < len(names):
        raise OptionError("metric", f"duplicate metric: {_names(space)}")


def _names(space: Space) -> str:
    return ", ".join(metric.name for metric in space.metric)


def _check_sampler(space: Space, sampler: type[Sampler]) -> None:
    method = space.method
    for package in sampler.packages:
        if find_spec(package) is None:
            raise OptionError("method", f"{method} needs a package that is not installed: pip install {package}")
    if sampler.is_sequential and space.run_cap is None:
        raise OptionError("run_cap", f'this key is needed, as the method "{method}" has no end of its own')
    ranges = [axis for axis in axes(space) if not axis.parameter.is_enumerated]
    if ranges and not sampler.takes_ranges:
        others = _methods_with("takes_ranges")
        raise OptionError(ranges[0].location, f'{method} needs "values", a list; methods that take a range: {others}')
    if len(space.metric) > 1 and not sampler.takes_several_metrics:
        others = _methods_with("takes_several_metrics")
        raise OptionError("method", f"{method} takes one metric, got {_names(space)}; {others} take several")


def _methods_with(attribute: str) -> str:
    return ", ".join(name for name in SAMPLERS.names() if getattr(SAMPLERS[name], attribute))


def _check_pruner(space: Space) -> None:
    if space.early_terminate is None:
        return
    _registered(PRUNERS, space.early_terminate.type, "early_terminate.type")
    with option_scope("early_terminate"):
        space.build_pruner()  # which checks its options
    if len(space.metric) > 1:
        raise OptionError("early_terminate", f"needs a single metric, got {_names(space)}")
    if space.metric[0].is_cost:
        raise OptionError("early_terminate", f"needs a metric with a value per epoch, got {_names(space)}")


def _check_seeds(space: Space, paths: Sequence[str]) -> None:
    if space.seeds is None:
        if "top" in space.model_fields_set:
            raise OptionError("top", 'is the number of trials that get all "seeds", and there are none')
        return
    if len(space.metric) > 1:
        raise OptionError("seeds", f'"top" needs a single metric to rank by, got {_names(space)}')
    if "seed" in paths:
        raise OptionError("seeds", 'the parameters set "seed", too')
    if len(set(space.seeds)) < len(space.seeds):
        raise OptionError("seeds", f"duplicate seed: {space.seeds}")
