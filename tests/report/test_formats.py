"""The forms of a table; every expected text is typed by hand."""

from __future__ import annotations

import json

import pytest

from model.errors import UserError
from model.report.table import Column, Table, percent
from model.report.tables import render

TABLE = Table(
    [
        Column(header="path", values=["a_1", "50 % & more"]),
        Column(header="test best", values=[0.5, 0.75], number_format=percent, deviations=[None, 0.01], best="highest"),
        Column(header="val loss", values=[None, 1.25], number_format=percent, is_printed=False),
        Column(header="val best", values=[None, 0.6], number_format=percent, counts=[None, 2]),
    ],
    ["A note."],
)


def test_markdown() -> None:
    assert render(TABLE, "markdown") == (
        "| path        |    test best |    val best |\n"
        "|:------------|-------------:|------------:|\n"
        "| a_1         |        50.00 |           - |\n"
        "| 50 % & more | 75.00 ± 1.00 | 60.00 (n=2) |\n"
        "\n"
        "A note."
    )


def test_csv_has_unrounded_values_and_deviations_and_all_columns() -> None:
    assert render(TABLE, "csv") == (
        "path,test best,test best std,val loss,val best\na_1,0.5,,,\n50 % & more,0.75,0.01,1.25,0.6\n"
    )


def test_json_has_an_object_a_row() -> None:
    assert json.loads(render(TABLE, "json")) == [
        {"path": "a_1", "test best": 0.5, "test best std": None, "val loss": None, "val best": None},
        {"path": "50 % & more", "test best": 0.75, "test best std": 0.01, "val loss": 1.25, "val best": 0.6},
    ]


def test_latex_is_a_booktabs_tabular_with_the_best_in_bold() -> None:
    assert render(TABLE, "latex") == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "path & test best & val best \\\\\n"
        "\\midrule\n"
        "a\\_1 & 50.00 & -- \\\\\n"
        "50 \\% \\& more & \\textbf{75.00 $\\pm$ 1.00} & 60.00 (n=2) \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "% A note.\n"
    )


def test_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match='--format: name: no table format is named "markdwn", did you mean "markdown"'):
        render(TABLE, "markdwn")
