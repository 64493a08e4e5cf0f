"""Whatever a cell's text is, a table has as many cells in every row."""

from __future__ import annotations

import pytest

from model.markdown import escaped, markdown_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat|kitten", "cat&#124;kitten"),
        ("out of\r\nmemory", "out of memory"),
        ("*cat*", r"\*cat\*"),
        ("`cat`", r"\`cat\`"),
        ("<b>", r"\<b>"),
        ("run_*", "run_*"),
        ("loss_kd", "loss_kd"),
    ],
)
def test_markup_in_a_cell_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_a_table_has_aligned_columns() -> None:
    table = markdown_table(("class", "images"), [("a|b", "7")], align=("left", "right"))
    assert table.splitlines() == [
        "| class    |   images |",
        "|:---------|---------:|",
        "| a&#124;b |        7 |",
    ]


def test_numbers_stay_as_they_are_written() -> None:
    assert markdown_table(("class",), [("007",)]).splitlines()[-1].split() == ["|", "007", "|"]
