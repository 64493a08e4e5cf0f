"""Values of a search as text: as parts of folder names, and in a canonical form to compare them."""

from __future__ import annotations

import json
import re
from typing import Any


def short_name(value: Any) -> str:
    """A value as a part of a file name: 4.0 is 4, {"kd": {"alpha": 0.9}} is kd_alpha_0.9, a path is a-path."""
    if isinstance(value, dict):
        parts = [
            short_name(part) if key == "name" else f"{safe_name(key)}_{short_name(part)}" for key, part in value.items()
        ]
        return "_".join(part.rstrip("_") for part in parts)
    if isinstance(value, list):
        return "-".join(short_name(part) for part in value)
    if isinstance(value, str):
        return safe_name(value)
    return canonical(value)


def safe_name(text: str) -> str:
    """Text with every run of other characters than letters, digits and ._+- replaced by a dash."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip(".-")


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: 4.0 is 4, and the order of keys does not matter."""
    return json.dumps(_with_whole_floats_as_int(value), sort_keys=True)


def _with_whole_floats_as_int(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_floats_as_int(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_whole_floats_as_int(part) for part in value]
    return int(value) if is_whole_number(value) else value


def is_whole_number(value: Any) -> bool:
    return value.is_integer() if isinstance(value, float) else type(value) is int
