"""Runs that differ in their seed only: one row of a table, one dot with a spread in a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config.dotted import NON_RESULT_KEYS
from .collect import SPLITS, WEIGHTS, format_value, schema_position
from .table import plain

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from pandas.api.typing import DataFrameGroupBy

GROUP = "group of seeds"
SEED_IN_PATH = re.compile(r"(?<![^/_])(?<!split_)seed_\d+(?![^/_])_?")  # as a search names its folders
NUM_NAMED = 3  # paths of a group that share none


def param_columns(runs: DataFrame) -> list[str]:
    """The columns of `results` that are parameters and can change a result."""
    return [name for name in runs.columns[: runs.columns.get_loc("state")] if name not in NON_RESULT_KEYS]


def varied_params(runs: DataFrame) -> list[str]:
    """The parameters beside the seed that all runs have and in which they differ.

    Where a search has choices, these stand for the parameters that follow from them.
    """
    columns = [name for name in param_columns(runs) if name != "seed" and runs[name].notna().all()]
    varied = [name for name in columns if runs[name].nunique() > 1]
    choices = [name for name in varied if is_choice(name)]
    if not choices:
        return varied
    of_choice = runs.groupby(choices)
    return [name for name in varied if name in choices or (of_choice[name].nunique() > 1).any()]


def is_choice(path: str) -> bool:
    """Whether a column is a search's parameter with choices, and no key of params.json."""
    return schema_position(path) < 0


def group_by_seed(runs: DataFrame) -> DataFrameGroupBy[Any, Any]:
    """The runs in groups that differ in their seed only, by name, in the order of their first runs.

    Runs that are not finished, and those whose parameters are unknown, are groups of their own.
    """
    groups: DataFrameGroupBy[Any, Any] = runs.assign(**{GROUP: group_names(runs)}).groupby(GROUP, sort=False)
    return groups


def group_names(runs: DataFrame) -> Series[Any]:
    """For each run, the name of its group: the path that its runs have without the seed, or some of their paths."""
    columns = [name for name in param_columns(runs) if name != "seed"]
    paths = runs.index.to_series()
    rows = runs[columns].itertuples()  # each begins with the path
    keys = paths.copy()
    keys[:] = [
        "\n".join("" if (value := plain(cell)) is None else format_value(value) for cell in row[1:]) for row in rows
    ]
    accuracies = [f"{split}_{weights}_accuracy" for split in SPLITS for weights in WEIGHTS]
    has_results = runs["state"].fillna("finished").eq("finished") & runs[accuracies].notna().any(axis=1)
    is_alone = ~has_results | runs[columns].isna().all(axis=1)
    keys = keys.where(~is_alone, paths)
    common = paths.map(without_seed).where(~is_alone, paths)
    is_shared = common.groupby(keys.to_numpy()).transform("nunique") == 1
    is_unique = keys.groupby(common.to_numpy()).transform("nunique") == 1
    joined = paths.groupby(keys.to_numpy()).transform(lambda group: _joined(group.tolist()))
    names: Series[Any] = common.where(is_shared & is_unique, joined)
    return names


def without_seed(path: str) -> str:
    """A run's path without the part that a search added for its seed: `a/lr_0.1_seed_2` is `a/lr_0.1`."""
    return SEED_IN_PATH.sub("", path).replace("_/", "/").strip("_/") or "."


def _joined(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NUM_NAMED} more" if len(paths) > NUM_NAMED else ""
    return ", ".join(paths[:NUM_NAMED]) + more
