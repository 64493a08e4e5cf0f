"""experiments/all_methods has every loss, and each runs and gets its row; here on fewer images still."""

from __future__ import annotations

import pytest

from model.config.folder import Folder
from model.docs.all_methods import PAGE, methods
from model.files import read_json
from model.home import ROOT
from model.registry import LOSSES
from tests.conftest import Call
from tests.report.markdown_tables import column
from tests.small_experiments import SHORT_TRAINING, SmallExperiments, run_search, write

pytestmark = pytest.mark.usefixtures("in_process_executor")

SHIPPED = ROOT / "experiments" / "all_methods"


def test_the_file_is_up_to_date() -> None:
    assert PAGE.is_up_to_date(), "the code has changed: run make docs"


def test_every_loss_has_a_method_of_its_name() -> None:
    assert {name: list(values["loss"])[-1] for name, values in methods().items()} == {
        name: name for name in LOSSES.names()
    }


def test_every_method_runs_and_has_a_row(small_experiments: SmallExperiments, call: Call) -> None:
    teacher = small_experiments.copy(
        "all_methods/teacher", student=read_json(SHIPPED / "teacher" / "params.json")["student"]
    )
    params = read_json(SHIPPED / "methods" / "params.json")
    params |= SHORT_TRAINING | {"dataset": small_experiments.dataset, "teacher": str(teacher.path)}
    search = read_json(PAGE.path)
    choices = search["parameters"]["method"]["choices"]
    for values in choices.values():  # teachers of single methods, made small, too
        if "teacher" in values:
            values["teacher"] = str(small_experiments.copy(values["teacher"].removeprefix("experiments/")).path)
    folder = write(Folder(small_experiments.root / "all_methods"), params, search)

    table = run_search(folder, call)

    assert sorted(column(table, "method")) == sorted(choices)
    assert "-" not in column(table, "test best")
