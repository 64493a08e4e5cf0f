"""The points of a space: the values that each puts into params.json, and the name of its folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .naming import canonical, short_name
from .parameter import Parameter
from .schema import Space

MAX_NAME_LENGTH = 120  # file systems allow 255 bytes; people read far less


class Axis(NamedTuple):
    """A dimension of the space: a parameter, or a conditional parameter of a choice.

    Args:
        name: The parameter's; of a conditional one parameter.choice.key, as two choices may search the same key in
            different ranges.
        key: What it sets in params.json.
        location: Its dotted path in search.json.
    """

    name: str
    key: str
    location: str
    parameter: Parameter


PickOption = Callable[[str, Parameter], Any]  # name of an axis and its parameter -> one of the parameter's options


@dataclass(frozen=True)
class Point:
    """One combination of options.

    Args:
        name: Of its folder.
        values: What it puts into params.json: dotted path -> value.
        picks: Name of an axis -> the option that was picked there.
    """

    name: str
    values: dict[str, Any]
    picks: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in self.values.items())

    @property
    def digest(self) -> str:
        """Equal for points that put the same values into params.json."""
        return hashlib.sha256(canonical(self.values).encode()).hexdigest()[:8]

    @property
    def unique_name(self) -> str:
        """A name that no other point has; for one that is too long, or that two points share."""
        return f"{self.name[: MAX_NAME_LENGTH - 9]}-{self.digest}"


def make_point(space: Space, pick: PickOption) -> Point:
    """The point of some picks; `pick` is called for a conditional axis only where its choice has been picked."""
    name_parts: list[tuple[str, str]] = []
    values: dict[str, Any] = {}
    picks: dict[str, Any] = {}

    def add(axis: str, key: str, parameter: Parameter) -> None:
        option = picks[axis] = pick(axis, parameter)
        name_parts.append((key, short_name(option)))
        values.update(parameter.values_of(key, option))
        for inner, conditional in parameter.conditional(option).items():
            add(f"{axis}.{option}.{inner}", inner, conditional)

    for name, parameter in space.varied.items():
        add(name, name, parameter)
    labels = _labels(space)
    return Point("_".join(f"{labels[key]}_{text}" for key, text in name_parts), values | space.shared, picks)


def grid_points(space: Space) -> list[Point]:
    """All combinations with unique names, the last parameter varying fastest; at most `run_cap` of them."""
    all_points = list(combinations(space))
    count = Counter(point.name.casefold() for point in all_points)  # some file systems ignore the case of names
    named = [
        replace(point, name=point.unique_name)
        if count[point.name.casefold()] > 1 or len(point.name) > MAX_NAME_LENGTH
        else point
        for point in all_points
    ]
    return named[: space.run_cap]


def combinations(space: Space) -> Iterator[Point]:
    """All combinations of options, the last parameter varying fastest."""
    picks_of_each = [list(_picks(name, parameter)) for name, parameter in space.varied.items()]
    for combination in itertools.product(*picks_of_each):
        picks = {axis: option for picks in combination for axis, option in picks.items()}
        yield _point_with(space, picks)


def _point_with(space: Space, picks: dict[str, Any]) -> Point:
    return make_point(space, lambda axis, _: picks[axis])


def _picks(axis: str, parameter: Parameter) -> Iterator[dict[str, Any]]:
    """All that can be picked on an axis, with all combinations of its conditional parameters."""
    for option in parameter.options:
        conditional = [
            list(_picks(f"{axis}.{option}.{key}", inner)) for key, inner in parameter.conditional(option).items()
        ]
        for combination in itertools.product(*conditional):
            yield {axis: option} | {name: picked for picks in combination for name, picked in picks.items()}


def covering_points(space: Space) -> list[Point]:
    """A few points in which every value, every choice and both ends of every range occur."""
    num_unseen = {axis.name: len(axis.parameter.options) for axis in axes(space)}
    num_picked: Counter[str] = Counter()

    def pick(axis: str, parameter: Parameter) -> Any:
        option = parameter.options[num_picked[axis] % len(parameter.options)]
        num_picked[axis] += 1
        num_unseen[axis] -= 1
        return option

    by_digest: dict[str, Point] = {}
    while any(number > 0 for number in num_unseen.values()):
        point = make_point(space, pick)
        by_digest.setdefault(point.digest, point)
    return list(by_digest.values())


def num_points(space: Space) -> int | None:
    """The number of combinations; None where a range makes them infinite."""
    number = math.prod(parameter.num_options for parameter in space.varied.values())
    return None if math.isinf(number) else int(number)


def axes(space: Space) -> list[Axis]:
    """All axes in the order of search.json, conditional ones included."""
    all_axes: list[Axis] = []

    def add(axis: Axis) -> None:
        all_axes.append(axis)
        for choice in axis.parameter.choice_names:
            for key, conditional in axis.parameter.conditional(choice).items():
                location = f"{axis.location}.choices.{choice}.{key}"
                add(Axis(f"{axis.name}.{choice}.{key}", key, location, conditional))

    for name, parameter in space.varied.items():
        add(Axis(name, name, f"parameters.{name}", parameter))
    return all_axes


def _labels(space: Space) -> dict[str, str]:
    """The label of each key in folder names: its last part, or the whole key where several have the same last part.

    The name of a component ("student.name") has the component's label.
    """
    keys = dict.fromkeys(axis.key for axis in axes(space))
    leaves = {key: key.removesuffix(".name").rpartition(".")[2] for key in keys}
    count = Counter(leaves.values())
    return {key: leaf if count[leaf] == 1 else key for key, leaf in leaves.items()}


def describe_axes(space: Space) -> Sequence[str]:
    """What is searched on each axis, a line each."""
    return [f"{axis.name}: {axis.parameter.describe()}" for axis in axes(space)]


def seed_of(*parts: int | str) -> int:
    """A hash of 32 bits, to seed a random generator with."""
    return int.from_bytes(hashlib.sha256(".".join(map(str, parts)).encode()).digest()[:4], "big")
