"""Which points of a space have a folder already; the folders are all that a search knows of its past."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...config.dotted import full_path, value_of, with_values
from ...config.params import PARAMS_FILE
from ...config.references import rebase_paths
from ...errors import OptionError, UserError, preview
from ...files import read_json
from .naming import canonical, is_whole
from .points import Pick, Point, axes, point_of
from .schema import Parameter, Space

TRIAL_FILE = "trial.json"  # in the folder of a proposal: {"number": 7}, its place in their order


def existing_points(
    parent_dir: Path, space: Space, base: dict[str, Any], *, suffix: str = ""
) -> list[tuple[int, Point]]:
    """The points that have a folder, and their numbers, in the order in which they were proposed.

    Folders without a number, such as those of a grid, come first in the order of their names. What is no point of the
    space, or not called like one, is left alone.

    Args:
        base: The content of params.json, in our form.
        suffix: What the folders' names end in, as those of a seed do.

    Raises:
        UserError: A file cannot be read.
    """
    found: list[tuple[int, str, Point]] = []
    for params in parent_dir.glob(f"*/{PARAMS_FILE}"):
        folder = params.parent
        if not folder.name.endswith(suffix):
            continue
        point = _point_in(read_json(params), folder.name.removesuffix(suffix), space, base, parent_dir)
        if point is not None:
            found.append((_number(folder / TRIAL_FILE), folder.name, point))
    found.sort(key=lambda each: each[:2])
    return [(max(number, place), point) for place, (number, _, point) in enumerate(found)]


def _number(path: Path) -> int:
    if not path.exists():
        return -1
    told = read_json(path)
    number = told.get("number") if isinstance(told, dict) else None
    if not isinstance(number, int) or number < 0:
        raise UserError(f"{path}: must hold the number of a proposal, got {preview(told)}")
    return number


def _point_in(raw: Any, name: str, space: Space, base: dict[str, Any], parent_dir: Path) -> Point | None:
    """The point of this name whose values a params.json has."""
    if not isinstance(raw, dict):
        return None
    choosing = {axis: list(parameter.choices) for axis, _, parameter in axes(space) if parameter.choices}
    paths = {axis: _path(base, key) for axis, key, _ in axes(space)}
    for chosen in itertools.product(*choosing.values()):
        try:
            point = point_of(space, _reading(raw, paths, dict(zip(choosing, chosen, strict=True)), parent_dir))
        except (OptionError, LookupError):  # a value is not there, or not one of the space
            continue
        if name in (point.name, point.unique_name):
            return replace(point, name=name)
    return None


def _path(base: dict[str, Any], key: str) -> str:
    """What a key stands for, which a choice may have made ambiguous in its runs."""
    try:
        return full_path(base, key)
    except OptionError:
        return key  # one of a choice's own


def _reading(raw: dict[str, Any], paths: dict[str, str], chosen: dict[str, str], parent_dir: Path) -> Pick:
    def pick(axis: str, parameter: Parameter) -> Any:
        if parameter.choices:
            return chosen[axis]
        path = paths[axis]
        value = value_of(raw, path)
        if parameter.is_range:
            return _within(value, parameter)
        return _one_of(value, parameter.values, raw, path, parent_dir)

    return pick


def _within(value: Any, parameter: Parameter) -> Any:
    low, high = parameter.bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise LookupError
    if parameter.distribution == "int_uniform" and not is_whole(value):
        raise LookupError
    steps = 0.0 if parameter.q is None else (value - low) / parameter.q
    if abs(steps - round(steps)) > 1e-8:
        raise LookupError
    return value


def _one_of(value: Any, values: Sequence[Any], raw: dict[str, Any], path: str, parent_dir: Path) -> Any:
    for each in values:
        if canonical(each) == canonical(value):
            return each
    for each in values:  # a folder that is named relative to the search's is named otherwise in its runs
        if canonical(value_of(rebase_paths(with_values(raw, {path: each}), parent_dir), path)) == canonical(value):
            return each
    raise LookupError
