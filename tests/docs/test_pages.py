"""Generated pages: all are written by `make docs`, and text written by hand stays."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from model import docs
from model.docs.__main__ import PAGES
from model.docs.pages import BEGIN, END, GeneratedPage, PageWithGeneratedSection, markdown_table


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("model.docs.pages.REPOSITORY", tmp_path)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_make_docs_writes_the_page_of_every_generator() -> None:
    modules = [import_module(f"model.docs.{module.name}") for module in pkgutil.iter_modules(docs.__path__)]
    assert {module.PAGE for module in modules if hasattr(module, "PAGE")} == set(PAGES)


def test_a_page_is_up_to_date_once_it_is_written(root: Path) -> None:
    page = GeneratedPage("page.md", lambda: "text\n")
    assert not page.is_up_to_date()
    page.write()
    assert page.is_up_to_date()
    assert (root / "docs" / "page.md").read_text() == "text\n"


def test_a_page_is_outdated_once_its_text_changes(root: Path) -> None:
    GeneratedPage("page.md", lambda: "text\n").write()
    assert not GeneratedPage("page.md", lambda: "other text\n").is_up_to_date()


def test_text_around_a_generated_section_stays(root: Path) -> None:
    path = root / "docs" / "page.md"
    path.write_text(f"# Title\n\nBefore.\n\n{BEGIN}\nold\nlines\n{END}\n\nAfter.\n")
    page = PageWithGeneratedSection("page.md", lambda: "new")
    page.write()
    assert path.read_text() == f"# Title\n\nBefore.\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"
    assert page.is_up_to_date()


def test_a_table_has_a_line_per_row_and_an_empty_one() -> None:
    assert markdown_table(("name", "size"), [("a", "1"), ("b", "2")]) == [
        "| name | size |",
        "|---|---|",
        "| a | 1 |",
        "| b | 2 |",
        "",
    ]


@pytest.mark.parametrize(
    ("cell", "escaped"),
    [("a | b", r"a \| b"), ("*.jpg", r"\*.jpg"), ("`*.jpg`", "`*.jpg`"), ("`a` * `b`", r"`a` \* `b`")],
)
def test_cells_are_escaped_outside_of_code(cell: str, escaped: str) -> None:
    assert markdown_table(("name",), [(cell,)])[2] == f"| {escaped} |"
