"""The root folder, to which paths of experiments, data sets and teachers are relative.

It is the first of these that there is:

1. the environment variable RETORT_HOME, also in a checkout: shipped experiments are then not found under their names;
2. the repository, where this package is imported from a checkout;
3. the working directory, at the time of the import.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def find_checkout(package: Path) -> Path | None:
    """The repository that a package folder belongs to; None where it is installed."""
    repository = package.parent
    return repository if package.name == "model" and (repository / "train.py").is_file() else None


def find_root(checkout: Path | None, environment: Mapping[str, str]) -> Path:
    if home := environment.get("RETORT_HOME"):
        with suppress(RuntimeError):  # "~" of a user that there is not is a name like any other
            return Path(home).expanduser().resolve()
        return Path(home).resolve()
    return checkout or Path.cwd()


CHECKOUT = find_checkout(Path(__file__).resolve().parent)
ROOT = find_root(CHECKOUT, os.environ)
TRAIN_COMMAND = "retort train" if CHECKOUT is None else "python train.py"  # as a user types it
