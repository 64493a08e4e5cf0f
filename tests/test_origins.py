"""What each of the five origins does, from its shipped folder to its table, by the commands that a user types.

The folders are those of experiments/, with a few of the embedded images, an epoch and the smallest networks of a kind;
their objectives, optimizers and schedules are as they are shipped.
"""

from __future__ import annotations

import json
import statistics
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluate
import search_hyperparams
import synthesize_results
import train
from model.data.cifar10_mini import unpack
from model.folder import Folder
from model.params import ROOT
from model.search.engine import Handle, Job
from tests.conftest import NUM_CLASSES, Call
from tests.report.reading import cells, column, headers
from utils import read_json, run_script

SMALLER: dict[str, dict[str, Any]] = {
    "cnn": {"num_channels": 4},
    "resnet18": {"name": "resnet8"},
    "resnet50": {"name": "resnet8"},
    "wrn_40_2": {"name": "wrn_16_1"},
    "wrn": {"depth": 16, "width": 1.0},
}
FEW = {"batch_size": 10, "num_epochs": 1, "precision": "float32"}


@dataclass(frozen=True)
class Workshop:
    """Where small copies of the shipped folders are made.

    Args:
        root: Holds the copies.
        images: A .npz file for the data set `arrays`: 40 training and 40 test images of the embedded ones.
    """

    root: Path
    images: Path

    @property
    def dataset(self) -> dict[str, Any]:
        return {"name": "arrays", "path": str(self.images), "val_size": 10}

    def copy(self, name: str, **changes: Any) -> Folder:
        """The shipped folder and its teacher, made small."""
        folder = Folder(self.root / name.replace("/", "_"))
        params = read_json(ROOT / "experiments" / name / "params.json")
        options = {key: value for key, value in params["dataset"].items() if key in ("val_size", "augment", "cutout")}
        student = params["student"] | SMALLER.get(params["student"]["name"], {})
        params |= FEW | {"dataset": self.dataset | options, "student": student}
        if "teacher" in params:
            params["teacher"] = str(self.copy(params["teacher"].removeprefix("experiments/")).path)
        return write(folder, params | changes)

    def copy_search(self, name: str, *counts: int) -> Folder:
        """The same for the folder of a search; of its parameters, so many of the first values."""
        search = read_json(ROOT / "experiments" / name / "search.json")
        for parameter, count in zip(search["parameters"].values(), counts, strict=True):
            parameter["values"] = parameter["values"][:count]
        folder = self.copy(name)
        return write(folder, read_json(folder.params), search)


def write(folder: Folder, params: dict[str, Any], search: dict[str, Any] | None = None) -> Folder:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.params.write_text(json.dumps(params))
    if search is not None:
        (folder.path / "search.json").write_text(json.dumps(search))
    return folder


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("origins")
    whole = unpack()

    def first(labels: np.ndarray[Any, Any], per_class: int) -> np.ndarray[Any, Any]:
        return np.concatenate([np.flatnonzero(labels == number)[:per_class] for number in range(NUM_CLASSES)])

    chosen, tested = first(whole.train_labels, 4), first(whole.test_labels, 4)
    np.savez(
        root / "few.npz",
        train_images=whole.train_images[chosen],
        train_labels=whole.train_labels[chosen],
        test_images=whole.test_images[tested],
        test_labels=whole.test_labels[tested],
    )
    return Workshop(root, root / "few.npz")


class InThisProcess:
    """An engine that calls train.py's main where another starts a process, which takes seconds to import torch."""

    def __init__(self) -> None:
        self._ended: dict[Handle, int] = {}

    @classmethod
    def for_runs(cls, num_runs: int, **_: Any) -> InThisProcess:
        return cls()

    def describe(self) -> str:
        return "one at a time"

    def has_room(self) -> bool:
        return not self._ended

    def submit(self, job: Job) -> Handle:
        with pytest.MonkeyPatch.context() as patched, job.log.open("a") as output:
            patched.setattr(sys, "argv", [*job.command[1:]])
            with redirect_stdout(output), redirect_stderr(output), pytest.raises(SystemExit) as ended:
                run_script(train.main)
        handle = Handle(str(job.folder))
        self._ended[handle] = int(ended.value.code or 0)
        return handle

    def poll(self, handle: Handle) -> int | None:
        return self._ended.pop(handle)

    def stop(self, handle: Handle) -> None:
        raise AssertionError("the run has ended")

    kill = stop


@pytest.fixture(autouse=True)
def searches_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_hyperparams, "LocalEngine", InThisProcess)


def trained(folder: Folder, call: Call) -> Folder:
    """The folder after train.py, which leaves a finished one alone."""
    ended = call(train.main, "--model_dir", folder.path)
    assert ended.status == 0, ended.err
    return folder


def searched(folder: Folder, call: Call) -> str:
    """The first table that search_hyperparams.py prints."""
    ended = call(search_hyperparams.main, "--parent_dir", folder.path)
    assert ended.status == 0, ended.err
    return ended.out.strip().split("\n\n")[0]


def table_of(path: Path, call: Call) -> str:
    """What synthesize_results.py writes."""
    assert call(synthesize_results.main, "--parent_dir", path).status == 0
    return (path / "results.md").read_text(encoding="utf-8").rstrip("\n")


def accuracy(folder: Folder, key: str = "accuracy") -> float:
    """On test, of the best weights."""
    return float(read_json(folder.metrics("test", "best"))[key])


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
