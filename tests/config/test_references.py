"""Folders that a params.json refers to."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.references import find_folder, rebase_paths
from model.errors import OptionError


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "/x", "~nosuchuser/base", "a\0b", "caf\udce9"])
def test_a_folder_that_cannot_be_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="teacher: no folder"):
        find_folder(name, tmp_path)
    assert rebase_paths({"teacher": name, "init": None}, tmp_path) == {"teacher": name, "init": None}


def test_a_folder_may_be_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    assert find_folder("~/base", tmp_path / "elsewhere") == tmp_path / "base"
