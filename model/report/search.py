"""What a search prints at its end."""

from __future__ import annotations

from pathlib import Path

from model.report.collect import SEARCH_FILE
from model.report.pivot import pivot_table
from model.report.tables import results_table
from utils import read_json


def tables_of_search(parent_dir: Path) -> str:
    """The table of all runs, one row for those that differ in their seed; for two parameters, one of two ways, too.

    Raises:
        UserError: There is no run in the folder.
    """
    file = parent_dir / SEARCH_FILE
    parameters = read_json(file).get("parameters", {}) if file.exists() else {"alpha": [], "temperature": []}
    varied = [name for name, given in parameters.items() if not isinstance(given, dict) or "value" not in given]
    table = results_table(parent_dir, group_by_seed="seed" in varied)
    ways = [name for name in varied if name != "seed"]
    if len(ways) != 2:
        return table
    across, down = ways
    return f"{table}\n\n{pivot_table(parent_dir, down, across)}"
