"""Published results of other projects: published.json, beside a search's search.json.

    {"sources": {"RepDistiller": {"url": "...", "protocol": "last epoch, mean of 5 runs"}},
     "rows": [{"method": "kd", "source": "RepDistiller", "accuracies": {"vgg13-vgg8": 72.98}}]}

Methods and pairs are named as the choices of the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import read_json
from .table import Column, signed, two_decimals

if TYPE_CHECKING:
    from pandas import DataFrame, Series

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


def read_protocols(parent_dir: Path) -> dict[str, str]:
    """Source -> how its accuracies were measured, of a folder's published.json; empty if there is no such file.

    Raises:
        UserError: The file has another form.
    """
    path = parent_dir / PUBLISHED_FILE
    if not path.exists():
        return {}
    try:
        sources = read_json(path).get("sources", {})
        return {str(name): str(source.get("protocol", "not stated")) for name, source in sources.items()}
    except AttributeError:
        raise UserError(f'{path}: "sources" must hold an object for each source, with its "protocol"') from None


def published_columns(rows: Sequence[DataFrame], parent_dir: Path) -> tuple[list[Column], list[str]]:
    """The published accuracy of each row, how far the row's is from it, and its source; and the sources' protocols.

    A row is compared by its last weights, which nothing has chosen. Its search's folder has the published.json.

    Raises:
        UserError: No row has a published accuracy, or a published.json has another form.
    """
    found = [_published_of(runs, parent_dir) for runs in rows]
    if not any(found):
        raise UserError(f"--published: no {PUBLISHED_FILE} below {parent_dir} has an accuracy of one of these rows")
    protocols = {source: protocol for each in found if each for source, protocol in [each[1:]]}
    own = [None if each is None else _mean(runs["test_last_accuracy"]) for each, runs in zip(found, rows, strict=True)]
    deviations = [
        None if accuracy is None or each is None else 100 * accuracy - each[0]
        for accuracy, each in zip(own, found, strict=True)
    ]
    columns = [
        Column(header="published", values=[each and each[0] for each in found], number_format=two_decimals),
        Column(header="deviation", values=deviations, number_format=signed),
        Column(header="source", values=[each and each[1] for each in found]),
    ]
    return columns, [
        "Deviations are of the last weights on test, in percentage points. Protocols: "
        + "; ".join(f"{source}: {protocol}" for source, protocol in protocols.items())
        + "."
    ]


def _published_of(runs: DataFrame, parent_dir: Path) -> tuple[float, str, str] | None:
    """Percent, source and protocol of a row's first published accuracy."""
    search_dir = (parent_dir / str(runs.index[0])).parent
    values = {str(value) for value in runs.iloc[0].dropna()}
    for result in read_published(search_dir):
        for pair, percent in result.accuracies.items():
            if {result.method, pair} <= values:
                return percent, result.source, read_protocols(search_dir).get(result.source, "not stated")
    return None


def _mean(accuracies: Series[float]) -> float | None:
    known = accuracies.dropna()
    return None if known.empty else float(known.mean())


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
