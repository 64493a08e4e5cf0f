"""Folders that a params.json refers to: resolve their paths, and rebase them for a folder one level deeper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import OptionError, did_you_mean, preview
from ..files import first_existing, is_there, siblings
from ..home import ROOT


def find_folder(name: str, relative_to: Path, *, key: str = "teacher") -> Path:
    """Resolve a folder of params.json: relative to the repository's root, then to the experiment folder.

    Raises:
        OptionError: There is no such folder.
    """
    if found := first_existing(name, (ROOT, relative_to), Path.is_dir):
        return found.resolve()
    hint = did_you_mean_folder(ROOT / name, relative_to / name)
    raise OptionError(key, f"no folder {preview(name)} under {ROOT} or {relative_to}{hint}")


def did_you_mean_folder(*paths: Path) -> str:
    """The hint of `did_you_mean` for a missing folder, from the folders beside each of the paths that were tried."""
    return did_you_mean(paths[0].name, {name for path in paths for name in siblings(path, Path.is_dir)})


def rebase_paths(params: dict[str, Any], parent_dir: Path) -> dict[str, Any]:
    """The params of a folder inside `parent_dir`: paths relative to `parent_dir` are made relative to that folder."""
    rebased: dict[str, Any] = {}
    for key in ("teacher", "init"):
        reference = params.get(key)
        if isinstance(reference, dict) and "model_dir" in reference:
            rebased[key] = reference | {"model_dir": _rebase(reference["model_dir"], parent_dir)}
        elif reference:
            rebased[key] = _rebase(reference, parent_dir)
    if params.get("plugins"):
        rebased["plugins"] = [_rebase_file(name, parent_dir) for name in params["plugins"]]
    return params | rebased


def _rebase(path: Any, parent_dir: Path) -> Any:
    if isinstance(path, list):
        return [_rebase(item, parent_dir) for item in path]
    if not isinstance(path, str) or is_there(ROOT / path, Path.is_dir) or not is_there(parent_dir / path, Path.is_dir):
        return path  # the repository's root is tried first, and needs no change
    deeper = f"../{path}"
    # The root is tried first: a relative path that exists there, too, would lead to another folder.
    return str((parent_dir / path).resolve()) if is_there(ROOT / deeper, Path.is_dir) else deeper


def _rebase_file(name: str, parent_dir: Path) -> str:
    return f"../{name}" if is_there(parent_dir / name, Path.is_file) else name  # else in the root folder, or a module
