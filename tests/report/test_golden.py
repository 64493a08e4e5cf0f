"""A tree of folders with everything that goes wrong in one, in every form of table: each cell is worked by hand.

Two seeds of each of two kinds on 10,000 test images, a run that failed under a name full of markup, and a run.json that
was cut. The differences are 4 points for both seeds: their spread is taken as that of rounding to 0.01 points, so that
the interval is 4 +- 12.706 * 0.01 * sqrt(2 / 12 / 2) = 4 +- 0.04 (12.706: a quantile of t with 1 degree of freedom).
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from model.report.runs import Runs
from model.report.tables import make_table, render

from .conftest import MakeRun
from .markdown_tables import cells

HEADERS = ["path", "teacher", "loss", "temperature", "num_epochs", "state", "n", "val best", "val last", "test best"]
HEADERS += ["test last", "difference [95 %]", "verdict", "seeds needed", "epochs", "seconds", "note"]
CUT = "run.json: Unterminated string starting at: line 1 column 11 (char 10)"


@pytest.fixture
def runs(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Runs:
    kd = {"teacher": "base", "loss": {"kd": {"temperature": 2.0}}}
    for seed, val, test in ((0, 0.7, 0.64), (1, 0.72, 0.66)):
        make_run(
            f"tree/kd/seed_{seed}", params=cnn | kd | {"seed": seed}, run=finished, val=(val, val), test=(test, test)
        )
    for seed, val, test in ((0, 0.6, 0.6), (1, 0.61, 0.62)):
        make_run(
            f"tree/alone/seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(val, val), test=(test, test)
        )
    failed = {"state": "failed", "epoch": 1, "error": "the loss is not finite"}
    make_run("tree/a|b & <i>", params=cnn | {"num_epochs": 5}, run=failed)
    make_run("tree/broken", params=cnn, run='{"state": "fini')
    return Runs.read(tmp_path / "tree").compared_with(tmp_path / "tree" / "alone")


def rendered(runs: Runs, name: str) -> str:
    return render(make_table(runs, by_seed=True), name)


def test_markdown(runs: Runs) -> None:
    kd = [
        "71.00 ± 1.41",
        "71.00 ± 1.41",
        "65.00 ± 1.41",
        "65.00 ± 1.41",
        "+4.00 [+3.96, +4.04]",
        "better",
        "2",
        "3",
        "12",
        "-",
    ]
    alone = ["60.50 ± 0.71", "60.50 ± 0.71", "61.00 ± 1.41", "61.00 ± 1.41", "-", "baseline", "-", "3", "12", "-"]
    failed = ["-", "-", "-", "-", "-", "-", "-", "1", "-", "the loss is not finite"]
    assert cells(rendered(runs, "markdown")) == [
        HEADERS,
        ["kd", "base", "kd", "2", "3", "finished", "2", *kd],
        ["alone", "-", "ce", "-", "3", "finished", "2", *alone],
        ["a&#124;b & \\<i>", "-", "ce", "-", "5", "failed", "1", *failed],
        ["broken", "-", "ce", "-", "3", "-", "1", *["-"] * 9, CUT],
    ]


def test_csv(runs: Runs) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(runs, "csv"))))
    assert [row["path"] for row in rows] == ["kd", "alone", "a|b & <i>", "broken"]
    assert {name for name in HEADERS if name not in rows[0]} == set()
    assert [row["test best"] for row in rows] == ["0.65", "0.61", "", ""]
    assert float(rows[0]["val best std"]) == pytest.approx(0.02 / 2**0.5)
    assert [row["note"] for row in rows] == ["", "", "the loss is not finite", CUT]


def test_json(runs: Runs) -> None:
    rows = json.loads(rendered(runs, "json"))
    assert [row["n"] for row in rows] == [2, 2, 1, 1]
    assert [row["verdict"] for row in rows] == ["better", "baseline", None, None]
    assert [row["seconds"] for row in rows] == [12.4, 12.4, None, None]


def test_latex(runs: Runs) -> None:
    lines = rendered(runs, "latex").splitlines()
    assert lines[0] == r"\begin{tabular}{llllllrrrrrlllrrl}"
    assert lines[2].startswith(r"path & teacher & loss & temperature & num\_epochs & state & n & val best & ")
    bold = " & ".join([r"\textbf{71.00 $\pm$ 1.41}"] * 2 + [r"\textbf{65.00 $\pm$ 1.41}"] * 2)
    assert lines[4] == (
        rf"kd & base & kd & 2 & 3 & finished & 2 & {bold} & +4.00 [+3.96, +4.04] & better & 2 & 3 & 12 & -- \\"
    )
    assert lines[6].startswith(r"a|b \& <i> & -- & ce & -- & 5 & failed & 1 & -- & ")
    assert lines[8:10] == [r"\bottomrule", r"\end{tabular}"]
