"""Published results of other projects: published.json, beside a search's search.json.

    {"sources": {"RepDistiller": {"url": "...", "protocol": "last epoch, mean of 5 runs"}},
     "rows": [{"method": "kd", "source": "RepDistiller", "accuracies": {"vgg13-vgg8": 72.98}}]}

Methods and pairs are named as the choices of the search.
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
    """Accuracies of one method from one source.

    Args:
        accuracies: Pair -> test accuracy in percent.
    """

    method: str
    source: str
    accuracies: dict[str, float]


def read_published(parent_dir: Path) -> list[PublishedResult]:
    """All rows of a folder's published.json; none if there is no such file.

    Raises:
        UserError: The file has another form.
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


def first_published(rows: list[PublishedResult]) -> dict[frozenset[str], float]:
    """{method, pair} -> percent from the first source that has it."""
    percents: dict[frozenset[str], float] = {}
    for row in rows:
        for pair, percent in row.accuracies.items():
            percents.setdefault(frozenset({row.method, pair}), percent)
    return percents
