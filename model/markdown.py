"""Tables in Markdown, whatever the texts in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, align: Sequence[str] = ()) -> str:
    """A table of texts.

    Args:
        align: "left" or "right" for each column; all to the left if left out.
    """
    table: str = tabulate(
        [[escaped(cell) for cell in row] for row in rows],
        headers=[escaped(header) for header in headers],
        tablefmt="pipe",
        colalign=align or None,
        disable_numparse=True,
    )
    return table


def escaped(cell: str) -> str:
    """A text as one cell, with those characters escaped that would end the cell or begin markup.

    A bar becomes an entity, as dialects of Markdown differ in how they read one after a backslash. A single star or
    backtick begins nothing, and stays readable where the table is printed.
    """
    text = " ".join(cell.split()).replace("|", "&#124;").replace("<", r"\<")
    for mark in "*`":
        if text.count(mark) > 1:
            text = text.replace(mark, f"\\{mark}")
    return text
