"""The points of a space: what each puts into params.json, and what its folder is called."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .naming import canonical, short_name
from .schema import Parameter, Space, split

LONGEST_NAME = 120  # file systems allow 255 bytes, people far less

# Axis and parameter -> one of its values, or the name of one of its choices. An axis is called like its parameter; one
# of a choice's own is called parameter.choice.key, as two choices may search the same key in different ranges.
Pick = Callable[[str, Parameter], Any]


@dataclass(frozen=True)
class Point:
    """One combination.

    Args:
        name: Of its folder.
        values: What it puts into params.json.
        picks: What was picked on each axis.
    """

    name: str
    values: dict[str, Any]
    picks: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in self.values.items())

    @property
    def digest(self) -> str:
        """The same for points that put the same values into params.json."""
        return hashlib.sha256(canonical(self.values).encode()).hexdigest()[:8]

    @property
    def unique_name(self) -> str:
        """A name that no other point has; for one that is too long, or that two points share."""
        return f"{self.name[: LONGEST_NAME - 9]}-{self.digest}"


def point_of(space: Space, pick: Pick) -> Point:
    """The point that picks make; an axis of a choice's own is asked for only where that choice is picked."""
    told: list[tuple[str, str]] = []
    values: dict[str, Any] = {}
    picks: dict[str, Any] = {}

    def take(axis: str, key: str, parameter: Parameter) -> None:
        picked = picks[axis] = pick(axis, parameter)
        if not parameter.choices:
            told.append((key, short_name(picked)))
            values[key] = picked
            return
        told.append((key, picked))
        fixed, inner = split(parameter.choices[picked])
        values.update(fixed)
        for own, each in inner.items():
            take(f"{axis}.{picked}.{own}", own, each)

    for name, parameter in space.varied.items():
        take(name, name, parameter)
    labels = _labels(space)
    return Point("_".join(f"{labels[key]}_{text}" for key, text in told), values | space.shared, picks)


def points(space: Space) -> list[Point]:
    """A grid's runs: all combinations, the last parameter varying fastest, or the first so many of them."""
    found = list(combinations(space))
    count = Counter(point.name.casefold() for point in found)  # some file systems take "SGD" and "sgd" for one name
    named = [
        replace(point, name=point.unique_name)
        if count[point.name.casefold()] > 1 or len(point.name) > LONGEST_NAME
        else point
        for point in found
    ]
    return named[: space.run_cap]


def combinations(space: Space) -> Iterator[Point]:
    """All combinations of what can be picked, as an odometer counts; its wheels are the axes that apply."""
    wheels: list[int] = []
    while True:
        sizes: list[int] = []
        yield point_of(space, _reading(wheels, sizes))
        while wheels and wheels[-1] == sizes[len(wheels) - 1] - 1:
            wheels.pop()
        if not wheels:
            return
        wheels[-1] += 1


def _reading(wheels: list[int], sizes: list[int]) -> Pick:
    """Pick what the wheels say, from the first on; where there are none yet, add one that stands at its start."""

    def pick(_: str, parameter: Parameter) -> Any:
        if len(sizes) == len(wheels):
            wheels.append(0)
        sizes.append(len(parameter.options))
        return parameter.options[wheels[len(sizes) - 1]]

    return pick


def samples(space: Space) -> list[Point]:
    """A few points among which every value, every choice and both ends of every range are picked."""
    unseen = {axis: len(parameter.options) for axis, _, parameter in axes(space)}
    asked: Counter[str] = Counter()

    def pick(axis: str, parameter: Parameter) -> Any:
        asked[axis] += 1
        unseen[axis] -= 1
        return parameter.options[(asked[axis] - 1) % len(parameter.options)]

    found: dict[str, Point] = {}
    while any(left > 0 for left in unseen.values()):
        point = point_of(space, pick)
        found.setdefault(point.digest, point)
    return list(found.values())


def num_points(space: Space) -> int | None:
    """How many combinations there are; None where a range makes them countless."""
    if any(parameter.is_range for _, _, parameter in axes(space)):
        return None
    return math.prod(_num_options(parameter) for parameter in space.varied.values())


def _num_options(parameter: Parameter) -> int:
    if not parameter.choices:
        return len(parameter.options)
    inner = (split(content)[1].values() for content in parameter.choices.values())
    return sum(math.prod(_num_options(each) for each in parameters) for parameters in inner)


def axes(space: Space) -> list[tuple[str, str, Parameter]]:
    """Every axis with its key in params.json: those of choices, too."""
    found: list[tuple[str, str, Parameter]] = []

    def add(axis: str, key: str, parameter: Parameter) -> None:
        found.append((axis, key, parameter))
        for choice, content in parameter.choices.items():
            for own, each in split(content)[1].items():
                add(f"{axis}.{choice}.{own}", own, each)

    for name, parameter in space.varied.items():
        add(name, name, parameter)
    return found


def _labels(space: Space) -> dict[str, str]:
    """What each key is called in a folder's name: its last part, or all where two have the same last part.

    The name of a component ("student.name") is called like the component.
    """
    keys = dict.fromkeys(key for _, key, _ in axes(space))
    leaves = {key: key.removesuffix(".name").rpartition(".")[2] for key in keys}
    count = Counter(leaves.values())
    return {key: leaf if count[leaf] == 1 else key for key, leaf in leaves.items()}


def describe(space: Space) -> Sequence[str]:
    """Each axis in a line: what is searched there."""
    lines = []
    for axis, _, parameter in axes(space):
        if parameter.is_range:
            low, high = parameter.bounds
            step = f" in steps of {parameter.q}" if parameter.q is not None else ""
            lines.append(f"{axis}: {parameter.distribution} from {low} to {high}{step}")
        else:
            lines.append(f"{axis}: {', '.join(map(short_name, parameter.options))}")
    return lines


def seed_of(*parts: int | str) -> int:
    """A number of 32 bits for each combination of parts, as if drawn at random."""
    return int.from_bytes(hashlib.sha256(".".join(map(str, parts)).encode()).digest()[:4], "big")
