"""Classes are matched by name: the columns of a network's output, put in the order of a data set's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..config.params import ClassMap
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
    renamed = [*theirs]
    if isinstance(class_map, dict):
        if unknown := [name for name in class_map if name not in theirs]:
            raise ValueError(f"class_map names a class that is not there: {preview(unknown[0])}")
        renamed = [class_map.get(name, name) for name in theirs]
    if renamed == [*ours]:
        return None
    if sorted(renamed) != sorted(ours):
        only_theirs, only_ours = _without(renamed, ours), _without(ours, renamed)
        raise ValueError(
            f"its classes differ from the data's: {_shown(only_theirs)} there, {_shown(only_ours)} here; "
            "class_map can tell which is which"
        )
    column_of = {name: column for column, name in enumerate(renamed)}
    return [column_of[name] for name in ours]


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return list((Counter(names) - Counter(others)).elements())


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return (", ".join(map(preview, names[:MAX_SHOWN])) or "no other") + more
