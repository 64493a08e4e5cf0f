"""docs/methods.md is what the code says."""

from __future__ import annotations

import inspect

import pytest

from model.docs.methods_page import METHODS_FILE, added, in_markdown, text
from model.registry import LOSSES


def test_the_page_is_up_to_date() -> None:
    assert METHODS_FILE.read_text(encoding="utf-8") == text(), "the code has changed: python -m model.docs.methods_page"


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_names_its_paper(name: str) -> None:
    assert "https://" in (inspect.getdoc(inspect.getmodule(LOSSES[name])) or "")


@pytest.mark.parametrize(
    ("name", "parameters", "kept"),
    [
        ("kd", 0, 0),
        ("ctkd", 1, 0),
        ("fitnet", (128 * 128 + 128) + 2 * 128, 2 * 128 + 1),  # 1x1 convolution, batch norm; its statistics and count
        ("crd", 2 * (256 * 128 + 128), 2 * (50_000 * 128 + 1)),  # projections; banks and their Z
    ],
)
def test_what_a_term_adds_is_counted(name: str, parameters: int, kept: int) -> None:
    assert added(name) == (parameters, kept)


def test_indented_lines_stand_in_a_block() -> None:
    found = in_markdown("Of a paper\n    a * b,\n    c\nwith c a number.")
    assert found == "Of a paper\n\n```\na * b,\nc\n```\n\nwith c a number."
