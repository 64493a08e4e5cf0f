"""Classes are matched by name: which columns of a network's output stand for each class of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..config.params import ClassMap, TeacherClasses
from ..errors import preview

MAX_SHOWN = 3  # names in an error


def match_classes(theirs: Sequence[str], ours: Sequence[str], class_map: ClassMap) -> list[int] | None:
    """For each of our classes, the column of their network's output; None where columns are in order already.

    Args:
        theirs: The names of the network's classes.
        ours: The names of the data set's classes.
        class_map: Our names of classes that they call otherwise, or `by_index`.

    Raises:
        ValueError: The names are others, or `class_map` names a class that they do not have.
    """
    if class_map == "by_index" and len(theirs) == len(ours):
        return None
    renamed = _renamed(theirs, class_map)
    if renamed == [*ours]:
        return None
    if not have_equal_names(renamed, ours):
        raise ValueError(f"{_difference(renamed, ours)}; class_map can tell which is which")
    column_of = {name: column for column, name in enumerate(renamed)}
    return [column_of[name] for name in ours]


def group_classes(
    theirs: Sequence[str], ours: Sequence[str], class_map: ClassMap, classes: TeacherClasses
) -> list[list[int]] | None:
    """For each of our classes, the columns of a teacher's output; None where columns are in order already.

    `class_map` may give several of their classes one name of ours.

    Args:
        theirs: The names of the teacher's classes.
        ours: The names of the data set's classes.
        class_map: Our names of classes that they call otherwise, or `by_index`.
        classes: What is done about classes that only the teacher has: with "rest" they are one more group, the last.

    Raises:
        ValueError: One of our classes is missing, or two of theirs have its name; or the teacher has others, and
            `classes` is "same".
    """
    if class_map == "by_index" and len(theirs) == len(ours):
        return None
    renamed = _renamed(theirs, class_map)
    if renamed == [*ours]:
        return None
    columns_of: dict[str, list[int]] = {}
    for column, name in enumerate(renamed):
        columns_of.setdefault(name, []).append(column)
    if not set(ours) <= columns_of.keys():
        raise ValueError(f"{_difference(renamed, ours)}; class_map can tell which is which")
    groups = [columns_of.pop(own) for own in ours]
    for own, group in zip(ours, groups, strict=True):
        names = [theirs[column] for column in group]
        if len(set(names)) < len(names):
            raise ValueError(f"it has {len(names)} classes {preview(own)}: which one is meant cannot be told by name")
    rest = sorted(column for columns in columns_of.values() for column in columns)
    if rest and classes == "same":
        others = _shown([renamed[column] for column in rest])
        raise ValueError(f'the data has no class {others}: "classes" can be "renormalised", or "rest"')
    return [*groups, rest] if rest and classes == "rest" else groups


def describe_groups(groups: Sequence[Sequence[int]], ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What is done to a teacher's classes, for the log."""
    if not groups:
        return "its classes are others, and no loss term compares them"
    own, used = groups[: len(ours)], sum(map(len, groups))
    several = sum(len(group) > 1 for group in own)
    parts = [f"{several} classes are several of its own"] if several else []
    if used < len(theirs):
        parts.append(f"{len(theirs) - used} of its {len(theirs)} classes are left out")
    if len(groups) > len(ours):
        parts.append(f"{len(groups[-1])} of its {len(theirs)} classes are one more class, the rest")
    return "; ".join(parts) or "its classes are put in the student's order"


def _renamed(theirs: Sequence[str], class_map: ClassMap) -> list[str]:
    if not isinstance(class_map, dict):
        return [*theirs]
    if unknown := [name for name in class_map if name not in theirs]:
        raise ValueError(f"class_map names a class that is not there: {preview(unknown[0])}")
    return [class_map.get(name, name) for name in theirs]


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    only_theirs, only_ours = _without(theirs, ours), _without(ours, theirs)
    return f"its classes differ from the data's: {_shown(only_theirs)} there, {_shown(only_ours)} here"


def have_equal_names(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether two lists of classes are the same but for their order."""
    return sorted(theirs) == sorted(ours)


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return list((Counter(names) - Counter(others)).elements())


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return (", ".join(map(preview, names[:MAX_SHOWN])) or "no other") + more
