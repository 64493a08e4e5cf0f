"""Which points of a space have a folder already; a search knows of its past only what lies in the folders."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...config.dotted import full_path, value_of, with_values
from ...config.folder import Folder
from ...config.params import PARAMS_FILE
from ...config.references import rebase_paths
from ...errors import OptionError, UserError, preview
from ...files import read_intact
from .naming import canonical
from .parameter import Parameter
from .points import PickOption, Point, axes, make_point
from .schema import Space

TRIAL_FILE = "trial.json"  # in the folder of a proposed trial: {"number": 7}, its index in their order


def existing_points(
    parent_dir: Path, space: Space, base: dict[str, Any], *, suffix: str = ""
) -> list[tuple[int, Point]]:
    """The points that have a folder, with their trial numbers, in the order in which they were proposed.

    Folders without a number, such as those of a grid, come first in the order of their names. A folder is ignored if
    its params.json is no point of the space, or if it does not have the point's name. Where a power cut has damaged
    params.json, params_resolved.json has the same values.

    Args:
        base: The content of params.json, in our form.
        suffix: The end of the folders' names, such as that of a seed.
    """
    existing: list[tuple[int, str, Point]] = []
    for params in parent_dir.glob(f"*/{PARAMS_FILE}"):
        folder = Folder(params.parent)
        name = folder.path.name
        if not name.endswith(suffix):
            continue
        content = read_intact(folder.params) or read_intact(folder.resolved)
        point = _read_point(content, name.removesuffix(suffix), space, base, parent_dir)
        if point is not None:
            existing.append((_read_number(folder.path / TRIAL_FILE), name, point))
    existing.sort(key=lambda item: item[:2])
    return [(max(number, index), point) for index, (number, _, point) in enumerate(existing)]


def _read_number(path: Path) -> int:
    number = read_intact(path).get("number", -1)
    if not isinstance(number, int) or number < -1:
        raise UserError(f"{path}: must hold the number of a trial, got {preview(number)}")
    return number


def _read_point(raw: dict[str, Any], name: str, space: Space, base: dict[str, Any], parent_dir: Path) -> Point | None:
    """The point that has this name and the values of a params.json."""
    choices = {axis.name: axis.parameter.choice_names for axis in axes(space) if axis.parameter.choice_names}
    paths = {axis.name: _path(base, axis.key) for axis in axes(space)}
    for combination in itertools.product(*choices.values()):
        chosen = dict(zip(choices, combination, strict=True))
        try:
            point = make_point(space, _pick_from(raw, paths, chosen, parent_dir))
        except (OptionError, LookupError):  # a value is missing, or is no option
            continue
        if name in (point.name, point.unique_name):
            return replace(point, name=name)
    return None


def _path(base: dict[str, Any], key: str) -> str:
    """The dotted path of a key, which a choice may have made ambiguous in its runs."""
    try:
        return full_path(base, key)
    except OptionError:
        return key  # a conditional parameter's


def _pick_from(raw: dict[str, Any], paths: dict[str, str], chosen: dict[str, str], parent_dir: Path) -> PickOption:
    """Picks of the options that a run's params.json has.

    Args:
        raw: The params.json.
        paths: Name of an axis -> dotted path.
        chosen: Name of an axis -> the choice that is assumed there.
    """

    def pick(axis: str, parameter: Parameter) -> Any:
        if axis in chosen:
            return chosen[axis]
        path = paths[axis]
        value = value_of(raw, path)
        try:
            return parameter.find(value)
        except LookupError:  # the path of a folder is written differently in the search's folder and in a run's
            for option in parameter.options:
                moved = rebase_paths(with_values(raw, {path: option}), parent_dir)
                if canonical(value_of(moved, path)) == canonical(value):
                    return option
            raise

    return pick
