"""--published: numbers of papers beside the runs' own; every expected one is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.report.runs import Runs
from model.report.tables import Selection, write_results

from .conftest import MakeRun, write
from .markdown_tables import column

PUBLISHED = {
    "sources": {"Authors": {"protocol": "last epoch, mean of 5 runs"}, "Others": {"protocol": "best epoch"}},
    "rows": [
        {"method": "at", "source": "Authors", "accuracies": {"small": 71.5}},
        {"method": "at", "source": "Others", "accuracies": {"small": 99.0, "large": 80.0}},
    ],
}


@pytest.fixture
def search(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    """One method on two pairs of networks, and a baseline without a published number."""
    choices = {"small": {"student.num_channels": 8}, "large": {"student.num_channels": 16}}
    methods: dict[str, Any] = {"at": {"loss": {"ce": {}, "at": {}}}, "plain": {"loss": {"ce": {}}}}
    folder = tmp_path / "search"
    folder.mkdir()
    write(folder / "search.json", {"parameters": {"pair": {"choices": choices}, "method": {"choices": methods}}})
    write(folder / "params.json", cnn)
    write(folder / "published.json", PUBLISHED)
    for pair, method, best, last in (
        ("small", "at", 0.75, 0.7),
        ("large", "at", 0.9, 0.81),
        ("small", "plain", 0.6, 0.5),
    ):
        params = cnn | methods[method] | {"student": {"name": "cnn", "num_channels": 8 if pair == "small" else 16}}
        make_run(f"search/{method}_{pair}", params=params, run=finished, val=(best, best), test=(best, last))
    return tmp_path


def test_the_last_weights_are_compared_with_the_first_source(search: Path) -> None:
    table = write_results(Runs.read(search), selection=Selection(published=True))
    assert column(table, "path") == ["search/at_large", "search/at_small", "search/plain_small"]
    assert column(table, "published") == ["80.00", "71.50", "-"]
    assert column(table, "deviation") == ["+1.00", "-1.50", "-"]
    assert column(table, "source") == ["Others", "Authors", "-"]


def test_protocols_stand_below_the_table(search: Path) -> None:
    table = write_results(Runs.read(search), selection=Selection(published=True))
    assert "Protocols: Others: best epoch; Authors: last epoch, mean of 5 runs." in table


def test_rows_without_any_published_number_are_an_error(search: Path) -> None:
    (search / "search" / "published.json").unlink()
    with pytest.raises(UserError, match=r"--published: no published\.json below .* has an accuracy"):
        write_results(Runs.read(search), selection=Selection(published=True))


@pytest.mark.parametrize("content", ['{"rows": 3}', '{"rows": [{}]}', '{"rows": [], "sources": {"a": 1}}', "[]"])
def test_another_form_of_the_file_is_one_line(content: str, search: Path) -> None:
    write(search / "search" / "published.json", content)
    with pytest.raises(UserError, match="published"):
        write_results(Runs.read(search), selection=Selection(published=True))
