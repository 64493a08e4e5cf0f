"""Measured speeds, and the README's figure."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]  # not the root folder, which RETORT_HOME may move elsewhere
