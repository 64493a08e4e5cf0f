"""What evaluate.py has written into the folders of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import parse_object

EVALUATION = Path("evaluation/test_best.json")


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of the best weights on test; None where there is none, or its file is broken."""
    try:
        return parse_object(folder / EVALUATION) or None
    except ValueError:
        return None
