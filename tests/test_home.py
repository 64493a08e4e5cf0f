"""The root folder: RETORT_HOME, else the repository, else the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.home import CHECKOUT, ROOT, find_checkout, find_root


def test_this_repository_is_the_root() -> None:
    assert Path(__file__).parents[1] == CHECKOUT == ROOT


def test_a_package_beside_train_py_is_in_a_checkout(tmp_path: Path) -> None:
    assert find_checkout(tmp_path / "model") is None
    (tmp_path / "train.py").touch()
    assert find_checkout(tmp_path / "model") == tmp_path


def test_an_installed_package_is_not_in_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()  # of some other project
    assert find_checkout(tmp_path / "retort") is None


def test_retort_home_comes_before_the_checkout(tmp_path: Path) -> None:
    assert find_root(Path("/a/checkout"), {"RETORT_HOME": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize("environment", [{}, {"RETORT_HOME": ""}], ids=["unset", "empty"])
def test_without_retort_home_the_root_is_the_checkout_or_the_working_directory(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_root(Path("/a/checkout"), environment) == Path("/a/checkout")
    assert find_root(None, environment) == tmp_path


def test_retort_home_may_be_relative_or_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    assert find_root(None, {"RETORT_HOME": "work"}) == tmp_path / "work"
    assert find_root(None, {"RETORT_HOME": "~/work"}) == Path("/home/anna/work")
