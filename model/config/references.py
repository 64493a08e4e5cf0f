"""Folders that a params.json names: found, and named again from a folder one level deeper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import OptionError, did_you_mean, preview
from ..home import ROOT


def _nearest_folder(*paths: Path) -> str:
    parents = {path.parent for path in paths if path.parent.is_dir()}
    return did_you_mean(
        paths[0].name, {entry.name for parent in parents for entry in parent.iterdir() if entry.is_dir()}
    )


def find_folder(name: str, relative_to: Path, *, key: str = "teacher") -> Path:
    """The folder that a params.json names: relative to the repository's root, then to the folder itself.

    Raises:
        OptionError: There is no such folder.
    """
    for base in (ROOT, relative_to):
        if (base / name).is_dir():
            return (base / name).resolve()
    near = _nearest_folder(ROOT / name, relative_to / name)
    raise OptionError(key, f"no folder {preview(name)} under {ROOT} or {relative_to}{near}")


def one_level_deeper(raw: dict[str, Any], parent_dir: Path) -> dict[str, Any]:
    """The same params for a folder in `parent_dir`: folders named relative to `parent_dir` are named from there."""
    moved = {}
    for key in ("teacher", "init"):
        named = raw.get(key)
        if isinstance(named, dict) and "model_dir" in named:
            moved[key] = named | {"model_dir": _moved(named["model_dir"], parent_dir)}
        elif named:
            moved[key] = _moved(named, parent_dir)
    return raw | moved


def _moved(names: Any, parent_dir: Path) -> Any:
    if isinstance(names, list):
        return [_moved(name, parent_dir) for name in names]
    if not isinstance(names, str) or (ROOT / names).is_dir() or not (parent_dir / names).is_dir():
        return names  # the repository's root counts first
    deeper = f"../{names}"
    return str((parent_dir / names).resolve()) if (ROOT / deeper).is_dir() else deeper
