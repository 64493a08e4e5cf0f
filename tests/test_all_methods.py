"""experiments/all_methods has every loss, and each runs and gets its row; here on fewer images still."""

from __future__ import annotations

import pytest

from model.config.folder import Folder
from model.files import read_json
from model.home import ROOT
from model.registry import LOSSES
from tests.conftest import Call
from tests.report.markdown_tables import column
from tests.small_experiments import FEW, Workshop, searched, write

pytestmark = pytest.mark.usefixtures("searches_in_this_process")

SHIPPED = ROOT / "experiments" / "all_methods"
SEARCH = read_json(SHIPPED / "methods" / "search.json")
METHODS = SEARCH["parameters"]["method"]["choices"]


def test_every_loss_has_a_method_of_its_name() -> None:
    assert {name: list(choice["loss"])[-1] for name, choice in METHODS.items()} == {
        name: name for name in LOSSES.names()
    }


def test_every_method_runs_and_has_a_row(workshop: Workshop, call: Call) -> None:
    teacher = workshop.copy("all_methods/teacher", student=read_json(SHIPPED / "teacher" / "params.json")["student"])
    params = read_json(SHIPPED / "methods" / "params.json")
    params |= FEW | {"dataset": workshop.dataset, "teacher": str(teacher.path)}
    METHODS["simkd"]["teacher"] = str(workshop.copy("all_methods/resnet8").path)
    folder = write(Folder(workshop.root / "all_methods"), params, SEARCH)

    table = searched(folder, call)

    assert sorted(column(table, "method")) == sorted(METHODS)
    assert "-" not in column(table, "test best")
