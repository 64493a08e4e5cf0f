"""The tables that a search prints at its end."""

from __future__ import annotations

from pathlib import Path

from ..search.space.search_file import read_space
from .pivot import pivot_table
from .runs import Runs
from .tables import make_table, render


def tables_of_search(parent_dir: Path) -> str:
    """The table of all runs, one row per group of seeds; for two parameters, a pivot table as well.

    Raises:
        UserError: There is no run in the folder, or search.json cannot be read.
    """
    space = read_space(parent_dir)
    runs = Runs.read(parent_dir)
    table = render(make_table(runs, by_seed="seed" in space.varied or space.seeds is not None), "markdown")
    parameters = {name: parameter for name, parameter in space.varied.items() if name != "seed"}
    if len(parameters) != 2 or not all(parameter.is_tabular for parameter in parameters.values()):
        return table
    across, down = parameters
    return f"{table}\n\n{pivot_table(runs, down, across)}"
