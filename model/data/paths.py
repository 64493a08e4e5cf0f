"""Where a user's own data lie: the path in params.json, found."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError, did_you_mean
from ..home import ROOT


def find_data(path: str, data_dir: Path) -> Path:
    """An absolute path as it is; any other relative to the data folder, then to the repository's root.

    Raises:
        OptionError: Nothing lies there.
    """
    candidates = [base / Path(path).expanduser() for base in (data_dir, ROOT)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    parents = [candidate.parent for candidate in candidates if candidate.parent.is_dir()]
    hint = did_you_mean(Path(path).name, {entry.name for parent in parents for entry in parent.iterdir()})
    raise OptionError("path", f'no "{path}" under {data_dir} or {ROOT}{hint}')
