"""Plug-ins: files and modules outside the package that register losses, networks and data sets.

Only the folder that a command is called with has its plug-ins run; the folders of its teachers are data.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ..errors import OptionError, did_you_mean, first_sentence
from ..files import first_existing, siblings
from ..home import ROOT


def load_plugins(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Import plug-ins; one that this process has imported already is not run again.

    Args:
        names: Files (`my_loss.py`), relative to the folder, then to the root folder; or modules (`my_package.module`).

    Returns:
        Name -> SHA-256 of the file.

    Raises:
        OptionError: One is missing, or fails while it is imported.
    """
    digests = {}
    for number, name in enumerate(names):
        try:
            module = _import_file(_find_file(name, folder)) if name.endswith(".py") else _import_module(name)
        except OptionError as error:
            raise error.with_parent(f"plugins.{number}") from None
        digests[name] = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return digests


def _find_file(name: str, folder: Path) -> Path:
    if found := first_existing(name, (folder, ROOT), Path.is_file):
        return found.resolve()
    hint = did_you_mean(Path(name).name, siblings(folder / name) | siblings(ROOT / name))
    raise OptionError("", f'no file "{name}" in {folder} or {ROOT}{hint}')


def _import_file(path: Path) -> ModuleType:
    name = f"retort_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a plug-in may fail in any way
        del sys.modules[name]
        raise OptionError("", f"{path}{_line_in(path, error)}: {_reason(error)}") from error
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise OptionError("", f"the module {name} cannot be imported ({_reason(error)})") from error
    finally:
        sys.path.remove(str(ROOT))
    if module.__file__ is None:
        raise OptionError("", f"{name} is a folder without __init__.py; name a module in it")
    return module


def _line_in(path: Path, error: Exception) -> str:
    """Where in a plug-in an error was raised: ", line 12"; nothing where it was not there."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {frames[-1].lineno}" if frames else ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_sentence(error)}"
