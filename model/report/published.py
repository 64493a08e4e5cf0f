"""What others published, kept as published.json beside a search's search.json.

    {"sources": {"RepDistiller": {"url": "...", "protocol": "last epoch, mean of 5 runs"}},
     "rows": [{"method": "kd", "source": "RepDistiller", "accuracies": {"vgg13-vgg8": 72.98}}]}

Methods and pairs are what the search calls its choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json

PUBLISHED_FILE = "published.json"


@dataclass(frozen=True)
class PublishedResult:
    """What one source says of one method.

    Args:
        accuracies: Pair -> percent of the test images.
    """

    method: str
    source: str
    accuracies: dict[str, float]


def read_published(parent_dir: Path) -> list[PublishedResult]:
    """All rows of a folder's published.json, none where it has no such file.

    Raises:
        UserError: The file is of another form.
    """
    path = parent_dir / PUBLISHED_FILE
    if not path.exists():
        return []
    try:
        return [_row(row) for row in read_json(path)["rows"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{path}: needs "rows", each with "method", "source" and "accuracies" in percent') from None


def _row(row: dict[str, Any]) -> PublishedResult:
    accuracies = {str(pair): float(percent) for pair, percent in row["accuracies"].items()}
    return PublishedResult(str(row["method"]), str(row["source"]), accuracies)


def first_of_each(rows: list[PublishedResult]) -> dict[frozenset[str], float]:
    """{method, pair} -> percent, by the first source that has it."""
    found: dict[frozenset[str], float] = {}
    for row in rows:
        for pair, percent in row.accuracies.items():
            found.setdefault(frozenset({row.method, pair}), percent)
    return found
