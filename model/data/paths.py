"""The path of a user's own data in params.json, resolved."""

from __future__ import annotations

from pathlib import Path

from ..errors import OptionError, did_you_mean
from ..files import first_existing, siblings
from ..home import ROOT


def find_data(path: str, data_dir: Path, key: str = "path") -> Path:
    """A relative path is looked up in the data folder, then in the repository's root; an absolute one is used as it is.

    Args:
        key: The option that the user set, for the error.

    Raises:
        OptionError: The path does not exist.
    """
    if found := first_existing(path, (data_dir, ROOT)):
        return found
    hint = did_you_mean(Path(path).name, siblings(data_dir / path) | siblings(ROOT / path))
    raise OptionError(key, f'no "{path}" under {data_dir} or {ROOT}{hint}')
