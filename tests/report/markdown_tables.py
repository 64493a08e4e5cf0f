"""Parse Markdown tables."""

from __future__ import annotations


def cells(table: str) -> list[list[str]]:
    """The header and the rows."""
    header, _, *rows = [line for line in table.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in [header, *rows]]


def column(table: str, header: str) -> list[str]:
    headers, *rows = cells(table)
    return [row[headers.index(header)] for row in rows]


def notes(table: str) -> list[str]:
    """The paragraphs below the table."""
    return table.split("\n\n")[1:]


def headers(table: str) -> list[str]:
    return cells(table)[0]
