"""What each of the five origins does, from its shipped folder to its table, by the commands that a user types.

The folders are those of experiments/, with a few of the embedded images, an epoch and the smallest networks of a kind;
their objectives, optimizers and schedules are as they are shipped.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

import evaluate
import search_hyperparams
from model.config.folder import Folder
from model.files import read_json
from model.home import ROOT
from tests.conftest import Call
from tests.report.markdown_tables import cells, column, headers
from tests.small_experiments import FEW, Workshop, accuracy, searched, table_of, trained, write

pytestmark = pytest.mark.usefixtures("searches_in_this_process")

# 1. The ancestor ----------------------------------------------------------------------------------------------------


def test_the_ancestor_s_student_learns_from_a_teacher_that_is_trained_first(workshop: Workshop, call: Call) -> None:
    student = trained(workshop.copy("cnn_distill"), call)
    teacher = Folder(workshop.root / "base_resnet18")
    assert (teacher.state(), student.state()) == ("finished", "finished")
    assert student.read_run()["teacher"] == {teacher.name: teacher.read_run()["weights_digest"]}
    assert student.read_history()[0]["loss_kd"] > 0


def test_the_ancestor_s_analysis_has_a_row_for_every_test_image(workshop: Workshop, call: Call) -> None:
    student = trained(workshop.copy("cnn_distill"), call)
    assert call(evaluate.main, "--model_dir", student.path, "--temperature", 4).status == 0
    with np.load(student.evaluation / "test_best.npz") as found, np.load(workshop.images) as images:
        assert found["temperature"] == 4
        assert found["index"].tolist() == list(range(40))
        assert found["labels"].tolist() == images["test_labels"].tolist()
        np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, rtol=1e-5)
        right = found["probabilities"].argmax(axis=1) == found["labels"]
        assert found["correct"].tolist() == right.tolist()
        assert found["confusion"].trace() == right.sum() == 40 * accuracy(student)


def test_the_ancestor_s_grid_ends_with_a_row_for_each_pair(workshop: Workshop, call: Call) -> None:
    grid = workshop.copy_search("cnn_distill_alpha_temp", 2, 1)
    table = searched(grid, call)
    runs = [Folder(grid.path / path) for path in column(table, "path")]
    assert sorted(column(table, "alpha")) == ["0.05", "0.1"]
    assert {read_json(run.resolved)["loss"]["kd"]["temperature"] for run in runs} == {1.5}
    assert column(table, "test best") == [f"{100 * accuracy(run):.2f}" for run in runs]


# 2. Born-again networks ---------------------------------------------------------------------------------------------

BORN_AGAIN = {
    "born_again_resnet50": "ce + kd",
    "born_again_resnet50/original": "kd",
    "born_again_lenet": "ce + kd",
}


@pytest.mark.parametrize(("name", "loss"), BORN_AGAIN.items())
def test_each_generation_is_a_row_with_the_one_before_as_its_teacher(
    name: str, loss: str, workshop: Workshop, call: Call
) -> None:
    family = trained(workshop.copy(name, generations=2), call)
    table = table_of(family.path, call)
    rows = zip(column(table, "path"), column(table, "teacher"), column(table, "loss"), strict=True)
    assert sorted(rows) == [("gen_0", "-", "ce"), ("gen_1", "../gen_0", loss)]


def test_generations_and_their_ensemble_are_told(workshop: Workshop, call: Call) -> None:
    family = trained(workshop.copy("born_again_resnet50", generations=2), call)
    page = call(evaluate.main, "--model_dir", family.path).out
    alone = [f"{100 * accuracy(Folder(family.path / f'gen_{number}')):.2f}" for number in range(2)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| gen_")]
    assert [row[:2] for row in rows] == [["gen_0", alone[0]], ["gen_1", alone[1]]]
    assert [row[3] for row in rows] == ["-", "0 + 1"]


# 3. Be your own teacher ---------------------------------------------------------------------------------------------


@pytest.fixture
def multi_exit(workshop: Workshop, call: Call) -> Folder:
    """ResNet-18 with its exits has no small form: ten training images, in two steps."""
    dataset = workshop.dataset | {"train_fraction": 1 / 3}
    return trained(workshop.copy("self_distillation_resnet18", dataset=dataset, batch_size=5), call)


EXITS = ("exit_1_accuracy", "exit_2_accuracy", "exit_3_accuracy", "ensemble_accuracy")


def test_every_exit_and_all_together_have_a_column(multi_exit: Folder, call: Call) -> None:
    table = table_of(multi_exit.path, call)
    names = [header for header in headers(table) if header.startswith("test ")]
    assert names == ["test best", "test last", "test exit 1", "test exit 2", "test exit 3", "test ensemble"]
    assert [column(table, name) for name in names[2:]] == [[f"{100 * accuracy(multi_exit, key):.2f}"] for key in EXITS]


def test_every_exit_and_all_together_are_told(multi_exit: Folder, call: Call) -> None:
    page = call(evaluate.main, "--model_dir", multi_exit.path).out
    percent = [f"{100 * accuracy(multi_exit, key):.2f} %" for key in EXITS]
    assert "exit 1 {}, exit 2 {}, exit 3 {}, ensemble {}".format(*percent) in page


# 4. Moonshine -------------------------------------------------------------------------------------------------------

# Of WRN-16-1 with 10 classes, as the project's network has them: parameters and MACs.
COSTS = {"Conv": ("175,066", "26.7 M"), "Conv2x2": ("80,346", "12.2 M"), "G8B2": ("41,818", "8.2 M")}


def test_a_cheap_student_stands_beside_its_teacher_with_what_both_cost(
    workshop: Workshop, tmp_path: Path, call: Call
) -> None:
    alone = Workshop(tmp_path, workshop.images)  # so that its table has these two alone
    student = trained(alone.copy("wrn_40_2_g8b2_at"), call)
    assert student.read_history()[0]["loss_at"] > 0
    table = table_of(tmp_path, call)
    rows = zip(*(column(table, name) for name in ("path", "parameters", "macs")), strict=True)
    assert sorted(rows) == [("wrn_40_2", *COSTS["Conv"]), ("wrn_40_2_g8b2_at", *COSTS["G8B2"])]


def test_a_search_over_convolutions_gives_accuracy_beside_parameters_and_macs(workshop: Workshop, call: Call) -> None:
    search = workshop.copy_search("wrn_40_2_convs", 2)
    table = searched(search, call)
    rows = zip(*(column(table, name) for name in ("conv", "parameters", "macs")), strict=True)
    assert sorted(rows) == [(conv, *COSTS[conv]) for conv in ("Conv", "Conv2x2")]
    runs = [Folder(search.path / path) for path in column(table, "path")]
    assert column(table, "test best") == [f"{100 * accuracy(run):.2f}" for run in runs]


# 5. The rivals ------------------------------------------------------------------------------------------------------


def test_rivals_are_compared_by_the_mean_and_the_spread_over_seeds(workshop: Workshop, call: Call) -> None:
    shipped = ROOT / "experiments" / "rivals" / "methods"
    method = read_json(shipped / "search.json")["parameters"]["method"]
    params = read_json(shipped / "params.json") | FEW | {"dataset": workshop.dataset, "student": {"name": "resnet8"}}
    teacher = write(Folder(workshop.root / "rivals_teacher"), params | {"teacher": None})
    pair = {"choices": {"tiny": {"student.name": "resnet8"}, "wide": {"student.name": "resnet14"}}}
    method["choices"] = {name: method["choices"][name] for name in ("baseline", "st_at", "fsp")}
    search = {"parameters": {"pair": pair, "method": method, "seed": [1, 2]}}
    folder = write(Folder(workshop.root / "rivals"), params | {"teacher": str(teacher.path)}, search)

    ended = call(search_hyperparams.main, "--parent_dir", folder.path)

    assert ended.status == 0, ended.err
    expected = [["method, pair", "tiny", "wide"]]
    for name in method["choices"]:
        row = [name]
        for size in pair["choices"]:
            runs = [Folder(folder.path / f"pair_{size}_method_{name}_seed_{seed}") for seed in (1, 2)]
            values = [100 * accuracy(run) for run in runs]
            row.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (n=2)")
        expected.append(row)
    assert cells(ended.out.strip().split("\n\n")[1]) == expected
