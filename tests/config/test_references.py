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


@pytest.fixture
def neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search's folder in a repository, with a `base` beside it, and another `base` beside the repository."""
    repository = tmp_path / "projects" / "repository"
    for folder in (repository / "experiments" / "search" / "run", repository / "experiments" / "base"):
        folder.mkdir(parents=True)
    for folder in (repository / "base", repository.parent / "base"):
        folder.mkdir()
    monkeypatch.setattr("model.config.references.ROOT", repository)
    return repository / "experiments"


def test_a_path_with_dots_is_relative_to_the_folder_and_not_to_the_root(neighbours: Path) -> None:
    assert find_folder("../base", neighbours / "search") == neighbours / "base"


def test_a_path_without_dots_is_relative_to_the_root_first(neighbours: Path) -> None:
    (neighbours / "search" / "base").mkdir()
    assert find_folder("base", neighbours / "search") == neighbours.parent / "base"
    assert find_folder("./base", neighbours / "search") == neighbours / "search" / "base"


def test_a_path_with_dots_may_be_the_root_s_where_the_folder_has_none(neighbours: Path) -> None:
    assert find_folder("../base", neighbours / "search" / "run") == neighbours.parent.parent / "base"


@pytest.mark.parametrize("name", ["../base", "base", "./run"])
def test_a_rebased_path_leads_to_the_same_folder(name: str, neighbours: Path) -> None:
    parent = neighbours / "search"
    rebased = rebase_paths({"teacher": name}, parent)["teacher"]
    assert find_folder(rebased, parent / "run") == find_folder(name, parent)
