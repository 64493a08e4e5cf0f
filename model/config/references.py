"""Folders and files that a params.json refers to: resolve paths, and rebase them for a folder one level deeper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import OptionError, did_you_mean, preview
from ..files import first_existing, is_there, siblings
from ..home import ROOT

WEIGHTS_SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")
ONNX_SUFFIX = ".onnx"
# Formats that are not read, as a file can run code of its own.
RUNS_CODE = {
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".joblib": "a pickle",
    ".h5": "a Keras model",
    ".keras": "a Keras model",
    ".pb": "a TensorFlow graph",
}
PUBLISHERS = ("timm", "torchvision")  # the first part of the names of networks with published weights


def find_folder(name: str, relative_to: Path, *, key: str = "teacher") -> Path:
    """Resolve a folder of params.json: relative to the repository's root, then to the experiment folder.

    A name that begins with `..` or `.` is meant from the experiment folder, and is tried there first.

    Raises:
        OptionError: There is no such folder.
    """
    if found := first_existing(name, _folders(name, relative_to), Path.is_dir):
        return found.resolve()
    hint = did_you_mean_folder(ROOT / name, relative_to / name)
    raise OptionError(key, f"no folder {preview(name)} under {ROOT} or {relative_to}{hint}")


def is_foreign(name: str) -> bool:
    """Whether a teacher's name is that of a network that was trained elsewhere, not of a folder."""
    return is_published(name) or Path(name).suffix.lower() in (*WEIGHTS_SUFFIXES, ONNX_SUFFIX, *RUNS_CODE)


def is_published(name: str) -> bool:
    """Whether it is that of a network with published weights."""
    return name.partition("/")[0] in PUBLISHERS


def find_file(name: str, relative_to: Path, *, key: str) -> Path:
    """As `find_folder`, for a file.

    Raises:
        OptionError: There is no such file.
    """
    folders = _folders(name, relative_to)
    if found := first_existing(name, folders, Path.is_file):
        return found.resolve()
    names = {file for folder in folders for file in siblings(folder / name, Path.is_file)}
    raise OptionError(
        key, f"no file {preview(name)} under {ROOT} or {relative_to}{did_you_mean(Path(name).name, names)}"
    )


def find_weights_file(name: str, relative_to: Path, *, key: str) -> Path | None:
    """Resolve a weights file of params.json, as `find_folder` does; None where the name is that of a folder.

    Raises:
        OptionError: There is no such file, or it is of another kind.
    """
    path = first_existing(name, _folders(name, relative_to))
    if path is not None and path.is_dir():
        return None
    known = ", ".join(WEIGHTS_SUFFIXES)
    if path is not None and path.suffix not in WEIGHTS_SUFFIXES:
        raise OptionError(key, f"{preview(name)} is neither a folder nor a weights file ({known})")
    if path is None and Path(name).suffix in WEIGHTS_SUFFIXES:
        return find_file(name, relative_to, key=key)  # an error with the nearest name
    return None if path is None else path.resolve()


def did_you_mean_folder(*paths: Path) -> str:
    """The hint of `did_you_mean` for a missing folder, from the folders beside each of the paths that were tried."""
    return did_you_mean(paths[0].name, {name for path in paths for name in siblings(path, Path.is_dir)})


def rebase_paths(params: dict[str, Any], parent_dir: Path) -> dict[str, Any]:
    """The params of a folder inside `parent_dir`: paths relative to `parent_dir` are made relative to that folder."""
    rebased: dict[str, Any] = {}
    for key in ("teacher", "init", "baseline"):
        reference = params.get(key)
        if isinstance(reference, dict) and "model_dir" in reference:
            rebased[key] = reference | {"model_dir": _rebase(reference["model_dir"], parent_dir)}
        elif reference:
            rebased[key] = _rebase(reference, parent_dir)
    student = params.get("student")
    if isinstance(student, dict) and isinstance(student.get("pretrained"), str):
        rebased["student"] = student | {"pretrained": _rebase(student["pretrained"], parent_dir)}
    if params.get("plugins"):
        rebased["plugins"] = [_rebase_file(name, parent_dir) for name in params["plugins"]]
    return params | rebased


def _rebase(path: Any, parent_dir: Path) -> Any:
    if isinstance(path, list):
        return [_rebase(item, parent_dir) for item in path]
    if not isinstance(path, str) or not is_there(parent_dir / path):
        return path
    if not _is_explicit(path) and is_there(ROOT / path):
        return path  # the repository's root is tried first, and needs no change
    return f"../{path}"


def _folders(name: str, relative_to: Path) -> tuple[Path, Path]:
    """Where a name is looked for, in this order."""
    return (relative_to, ROOT) if _is_explicit(name) else (ROOT, relative_to)


def _is_explicit(path: str) -> bool:
    return path.partition("/")[0] in ("..", ".")


def _rebase_file(name: str, parent_dir: Path) -> str:
    return f"../{name}" if is_there(parent_dir / name, Path.is_file) else name  # else in the root folder, or a module
