"""The root folder: what experiments, data sets and teachers are named relative to."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
