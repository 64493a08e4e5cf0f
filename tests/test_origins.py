"""The five works that the project grew from, each from its shipped experiment to its table by the user's commands.

The experiments are those of experiments/, with a few images of cifar10_mini, one epoch and the smallest network of each
family; objectives, optimizers and schedules are those that are shipped.
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
from tests.small_experiments import (
    SHORT_TRAINING,
    SmallExperiments,
    accuracy,
    results_table,
    run_search,
    train_folder,
    write,
)

pytestmark = pytest.mark.usefixtures("in_process_executor")

# 1. The original project --------------------------------------------------------------------------------------------


def test_original_student_learns_from_a_teacher_that_is_trained_first(
    small_experiments: SmallExperiments, call: Call
) -> None:
    student = train_folder(small_experiments.copy("cnn_distill"), call)
    teacher = Folder(small_experiments.root / "base_resnet18")
    assert (teacher.state(), student.state()) == ("finished", "finished")
    assert student.read_run()["teacher"] == {teacher.name: teacher.read_run()["weights_digest"]}
    assert student.read_history()[0]["loss_kd"] > 0


def test_original_analysis_has_a_row_for_every_test_image(small_experiments: SmallExperiments, call: Call) -> None:
    student = train_folder(small_experiments.copy("cnn_distill"), call)
    assert call(evaluate.main, "--model_dir", student.path, "--temperature", 4).status == 0
    with np.load(student.evaluation / "test_best.npz") as arrays, np.load(small_experiments.images) as images:
        assert arrays["temperature"] == 4
        assert arrays["index"].tolist() == list(range(40))
        assert arrays["labels"].tolist() == images["test_labels"].tolist()
        np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1, rtol=1e-5)
        correct = arrays["probabilities"].argmax(axis=1) == arrays["labels"]
        assert arrays["correct"].tolist() == correct.tolist()
        assert arrays["confusion"].trace() == correct.sum() == 40 * accuracy(student)


def test_original_grid_search_prints_a_row_for_each_pair(small_experiments: SmallExperiments, call: Call) -> None:
    grid = small_experiments.copy_search("cnn_distill_alpha_temp", 2, 1)
    table = run_search(grid, call)
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
def test_each_generation_is_a_row_with_the_previous_one_as_its_teacher(
    name: str, loss: str, small_experiments: SmallExperiments, call: Call
) -> None:
    parent = train_folder(small_experiments.copy(name, generations=2), call)
    table = results_table(parent.path, call)
    rows = zip(column(table, "path"), column(table, "teacher"), column(table, "loss"), strict=True)
    assert sorted(rows) == [("gen_0", "-", "ce"), ("gen_1", "../gen_0", loss)]


def test_evaluation_prints_generations_and_their_ensembles(small_experiments: SmallExperiments, call: Call) -> None:
    parent = train_folder(small_experiments.copy("born_again_resnet50", generations=2), call)
    output = call(evaluate.main, "--model_dir", parent.path).out
    accuracies = [f"{100 * accuracy(Folder(parent.path / f'gen_{number}')):.2f}" for number in range(2)]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("| gen_")
    ]
    assert [row[:2] for row in rows] == [["gen_0", accuracies[0]], ["gen_1", accuracies[1]]]
    assert [row[3] for row in rows] == ["-", "0 + 1"]


# 3. Be your own teacher ---------------------------------------------------------------------------------------------


@pytest.fixture
def multi_exit(small_experiments: SmallExperiments, call: Call) -> Folder:
    """ResNet-18 with exits, for which there is no smaller network: ten training images in two steps."""
    dataset = small_experiments.dataset | {"train_fraction": 1 / 3}
    return train_folder(small_experiments.copy("self_distillation_resnet18", dataset=dataset, batch_size=5), call)


EXITS = ("exit_1_accuracy", "exit_2_accuracy", "exit_3_accuracy", "ensemble_accuracy")


def test_every_exit_and_their_ensemble_have_a_column(multi_exit: Folder, call: Call) -> None:
    table = results_table(multi_exit.path, call)
    names = [header for header in headers(table) if header.startswith("test ")]
    assert names == ["test best", "test last", "test exit 1", "test exit 2", "test exit 3", "test ensemble"]
    assert [column(table, name) for name in names[2:]] == [[f"{100 * accuracy(multi_exit, key):.2f}"] for key in EXITS]


def test_evaluation_prints_every_exit_and_their_ensemble(multi_exit: Folder, call: Call) -> None:
    output = call(evaluate.main, "--model_dir", multi_exit.path).out
    table = output[output.index("| exit ") :].partition("\n\n")[0]
    assert column(table, "exit") == ["exit 1", "exit 2", "exit 3", "exit 4", "ensemble"]
    percents = column(table, "accuracy %")
    assert [*percents[:3], percents[4]] == [f"{100 * accuracy(multi_exit, key):.2f}" for key in EXITS]


# 4. Moonshine -------------------------------------------------------------------------------------------------------

# Parameters and MACs of WRN-16-1 with 10 classes.
COSTS = {"Conv": ("175,066", "26.7 M"), "Conv2x2": ("80,346", "12.2 M"), "G8B2": ("41,818", "8.2 M")}


def test_table_shows_the_parameters_and_macs_of_student_and_teacher(
    small_experiments: SmallExperiments, tmp_path: Path, call: Call
) -> None:
    in_own_folder = SmallExperiments(tmp_path, small_experiments.images)  # so that the table has only these two runs
    student = train_folder(in_own_folder.copy("wrn_40_2_g8b2_at"), call)
    assert student.read_history()[0]["loss_at"] > 0
    table = results_table(tmp_path, call)
    rows = zip(*(column(table, name) for name in ("path", "parameters", "macs")), strict=True)
    assert sorted(rows) == [("wrn_40_2", *COSTS["Conv"]), ("wrn_40_2_g8b2_at", *COSTS["G8B2"])]


def test_search_over_convolutions_shows_accuracy_parameters_and_macs(
    small_experiments: SmallExperiments, call: Call
) -> None:
    search = small_experiments.copy_search("wrn_40_2_convs", 2)
    table = run_search(search, call)
    rows = zip(*(column(table, name) for name in ("conv", "parameters", "macs")), strict=True)
    assert sorted(rows) == [(conv, *COSTS[conv]) for conv in ("Conv", "Conv2x2")]
    runs = [Folder(search.path / path) for path in column(table, "path")]
    assert column(table, "test best") == [f"{100 * accuracy(run):.2f}" for run in runs]


# 5. Comparison of methods -------------------------------------------------------------------------------------------


def test_methods_are_compared_by_mean_and_standard_deviation_over_seeds(
    small_experiments: SmallExperiments, call: Call
) -> None:
    shipped = ROOT / "experiments" / "rivals" / "methods"
    method = read_json(shipped / "search.json")["parameters"]["method"]
    params = (
        read_json(shipped / "params.json")
        | SHORT_TRAINING
        | {"dataset": small_experiments.dataset, "student": {"name": "resnet8"}}
    )
    teacher = write(Folder(small_experiments.root / "rivals_teacher"), params | {"teacher": None})
    pair = {"choices": {"tiny": {"student.name": "resnet8"}, "wide": {"student.name": "resnet14"}}}
    method["choices"] = {name: method["choices"][name] for name in ("baseline", "st_at", "fsp")}
    search = {"parameters": {"pair": pair, "method": method, "seed": [1, 2]}}
    folder = write(Folder(small_experiments.root / "rivals"), params | {"teacher": str(teacher.path)}, search)

    result = call(search_hyperparams.main, "--parent_dir", folder.path)

    assert result.status == 0, result.err
    expected = [["method, pair", "tiny", "wide"]]
    for name in method["choices"]:
        row = [name]
        for size in pair["choices"]:
            runs = [Folder(folder.path / f"pair_{size}_method_{name}_seed_{seed}") for seed in (1, 2)]
            values = [100 * accuracy(run) for run in runs]
            row.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (n=2)")
        expected.append(row)
    assert cells(result.out.strip().split("\n\n")[1]) == expected
