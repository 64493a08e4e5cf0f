"""Generators of the pages in docs/ that are made from the code; `make docs` writes all of them."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]  # not the root folder, which RETORT_HOME may move elsewhere
