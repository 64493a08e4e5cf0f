"""The search over all losses, experiments/all_methods/methods/search.json, made from the registry.

    python -m model.docs.all_methods     writes it

A loss is used with the labels' cross-entropy, {"ce": {}, NAME: {}}, unless it was registered with an `example`.
"""

from __future__ import annotations

import json
from typing import Any

from .. import losses  # fills the registry
from ..registry import LOSSES
from .pages import GeneratedPage


def methods() -> dict[str, dict[str, Any]]:
    """Values of params.json by method: one method for every registered loss, of the same name."""
    return {name: {"loss": {"ce": {}, name: {}}} | LOSSES.example(name) for name in LOSSES.names()}


def search_text() -> str:
    """The file's text, with a line for each method."""
    choices = ",\n".join(f"        {json.dumps(name)}: {json.dumps(values)}" for name, values in methods().items())
    return (
        '{\n  "method": "grid",\n  "parameters": {\n    "method": {\n      "choices": {\n'
        + choices
        + "\n      }\n    }\n  }\n}\n"
    )


PAGE = GeneratedPage("search.json", search_text, folder="experiments/all_methods/methods")

if __name__ == "__main__":
    PAGE.write()
