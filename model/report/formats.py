"""The forms in which a table is printed or written: for people, for papers, for programs."""

from __future__ import annotations

import csv as csv_files
import io
import json as json_text

from ..markdown import markdown_table
from ..registry import TABLE_FORMATS
from .table import MISSING, Column, Table

LATEX_ESCAPES = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
)


@TABLE_FORMATS.register
def markdown(table: Table) -> str:
    """A Markdown table, which is readable as plain text, too; notes follow as paragraphs."""
    columns = table.printed
    rows = [[column.cell(row) for column in columns] for row in range(table.num_rows)]
    align = ["left" if column.number_format is None else "right" for column in columns]
    text = markdown_table([column.header for column in columns], rows, align=align)
    return "\n\n".join([text, *table.notes])


@TABLE_FORMATS.register
def csv(table: Table) -> str:
    """Unrounded values, empty where a row has none; standard deviations in columns of their own."""
    columns = _with_deviations(table)
    text = io.StringIO()
    writer = csv_files.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


@TABLE_FORMATS.register
def json(table: Table) -> str:
    """A list of objects, one a row, with unrounded values; null where a row has none."""
    columns = _with_deviations(table)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json_text.dumps(rows, indent=2, ensure_ascii=False) + "\n"


@TABLE_FORMATS.register
def latex(table: Table) -> str:
    r"""A tabular for the package booktabs: the best value of a column in bold, notes as comments."""
    columns = table.printed
    align = "".join("l" if column.number_format is None else "r" for column in columns)
    best = [column.best_row() for column in columns]
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _latex_row([column.header for column in columns])]
    lines.append(r"\midrule")
    for row in range(table.num_rows):
        cells = [_latex_cell(column, row, is_best=row == best[i]) for i, column in enumerate(columns)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _latex_cell(column: Column, row: int, *, is_best: bool) -> str:
    text = column.cell(row)
    if text == MISSING:
        return "--"
    escaped = text.translate(LATEX_ESCAPES)
    return rf"\textbf{{{escaped}}}" if is_best else escaped


def _latex_row(texts: list[str]) -> str:
    return " & ".join(text.translate(LATEX_ESCAPES) for text in texts) + r" \\"


def _with_deviations(table: Table) -> dict[str, list[object]]:
    """Header -> raw values of all columns, also of those that are not printed."""
    values: dict[str, list[object]] = {}
    for column in table.columns:
        values[column.header] = list(column.values)
        if column.deviations is not None:
            values[f"{column.header} std"] = list(column.deviations)
    return values
