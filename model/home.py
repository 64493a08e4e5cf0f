"""The root folder, to which paths of experiments, data sets and teachers are relative."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
