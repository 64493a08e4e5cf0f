"""The ancestor's flat params.json, turned into our form."""

from __future__ import annotations

from typing import Any


def is_flat(raw: dict[str, Any]) -> bool:
    """Whether this is a flat file: it names a `model_version` and none of our objects."""
    return "model_version" in raw


def nested_from_flat(raw: dict[str, Any]) -> dict[str, Any]:
    raise NotImplementedError
