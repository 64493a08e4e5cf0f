"""Parse Markdown tables."""

from __future__ import annotations


def cells(table: str) -> list[list[str]]:
    """The header and the rows."""
    header, _, *rows = table.split("\n")
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in [header, *rows]]


def column(table: str, header: str) -> list[str]:
    headers, *rows = cells(table)
    return [row[headers.index(header)] for row in rows]


def headers(table: str) -> list[str]:
    return cells(table)[0]
