"""The path of a user's own data in params.json, resolved."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError, did_you_mean
from ..home import ROOT


def find_data(path: str, data_dir: Path) -> Path:
    """A relative path is looked up in the data folder, then in the repository's root; an absolute one is used as it is.

    Raises:
        OptionError: The path does not exist.
    """
    candidates = [base / Path(path).expanduser() for base in (data_dir, ROOT)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    parents = [candidate.parent for candidate in candidates if candidate.parent.is_dir()]
    hint = did_you_mean(Path(path).name, {entry.name for parent in parents for entry in parent.iterdir()})
    raise OptionError("path", f'no "{path}" under {data_dir} or {ROOT}{hint}')
