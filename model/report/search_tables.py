"""What a search prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json
from ..search.space.schema import SEARCH_FILE, is_parameter
from .pivot import pivot_table
from .tables import results_table


def tables_of_search(parent_dir: Path) -> str:
    """The table of all runs, one row for those that differ in their seed; for two parameters, one of two ways, too.

    Raises:
        UserError: There is no run in the folder.
    """
    file = parent_dir / SEARCH_FILE
    asked = read_json(file) if file.exists() else {"parameters": {"alpha": [], "temperature": []}}
    varied = {
        name: given
        for name, given in asked.get("parameters", {}).items()
        if not isinstance(given, dict) or "value" not in given
    }
    table = results_table(parent_dir, group_by_seed="seed" in varied or "seeds" in asked)
    ways = [name for name in varied if name != "seed"]
    if len(ways) != 2 or not all(_is_a_way(varied[name]) for name in ways):
        return table
    across, down = ways
    return f"{table}\n\n{pivot_table(parent_dir, down, across)}"


def _is_a_way(parameter: Any) -> bool:
    """Whether rows can be made of a parameter: it has a few values, or choices without parameters of their own."""
    if isinstance(parameter, list):
        return True
    choices = parameter.get("choices", {})
    return "values" in parameter or (bool(choices) and not any(map(is_parameter, _contents(choices))))


def _contents(choices: dict[str, dict[str, Any]]) -> list[Any]:
    return [content for choice in choices.values() for content in choice.values()]
