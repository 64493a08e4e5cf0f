"""Runs that differ in their seed only: one row of a table, one dot with a spread in a figure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..config.dotted import NON_RESULT_KEYS
from .collect import schema_position

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from pandas.api.typing import DataFrameGroupBy

GROUP = "group of seeds"
SEED_IN_PATH = re.compile(r"(?<![^/_])(?<!split_)seed_\d+(?![^/_])_?")  # as a search names its folders


def param_columns(runs: DataFrame) -> list[str]:
    """The columns of `results` that are parameters and can change a result."""
    return [name for name in runs.columns[: runs.columns.get_loc("state")] if name not in NON_RESULT_KEYS]


def varied_params(runs: DataFrame) -> list[str]:
    """The parameters beside the seed that all runs have and in which they differ.

    Where a search has choices, these stand for the parameters that follow from them.
    """
    columns = [name for name in param_columns(runs) if name != "seed" and runs[name].notna().all()]
    varied = [name for name in columns if runs[name].nunique() > 1]
    choices = [name for name in varied if schema_position(name) < 0]
    if not choices:
        return varied
    of_choice = runs.groupby(choices)
    return [name for name in varied if name in choices or (of_choice[name].nunique() > 1).any()]


def group_by_seed(runs: DataFrame) -> DataFrameGroupBy[Any, Any]:
    """The runs, grouped by `group_names`."""
    groups: DataFrameGroupBy[Any, Any] = runs.assign(**{GROUP: group_names(runs)}).groupby(GROUP)
    return groups


def group_names(runs: DataFrame) -> Series:
    """For each run, the name of the group of runs that differ from it in their seed only.

    A group is named by its path without the seed; where its runs do not share one, by the first run's path.
    """
    columns = [name for name in param_columns(runs) if name != "seed"]
    keys = runs[columns].astype(str).agg("\n".join, axis=1)
    paths = runs.index.to_series()
    common = paths.map(without_seed)
    is_shared = common.groupby(keys).transform("nunique") == 1
    is_unique = keys.groupby(common).transform("nunique") == 1
    names: Series = common.where(is_shared & is_unique, paths.groupby(keys).transform("first"))
    return names


def without_seed(path: str) -> str:
    """A run's path without the part that a search added for its seed: `a/lr_0.1_seed_2` is `a/lr_0.1`."""
    return SEED_IN_PATH.sub("", path).replace("_/", "/").strip("_/") or path
