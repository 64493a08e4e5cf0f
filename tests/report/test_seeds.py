"""Which runs differ in their seed only, and what their group is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.report.dataframe import results
from model.report.seeds import group_names, varied_params, without_seed

from .conftest import MakeRun, write


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("student/loss_kd_alpha_0.9_seed_2", "student/loss_kd_alpha_0.9"),
        ("views/student_cnn_seed_12_views_per_image_4", "views/student_cnn_views_per_image_4"),
        ("cnn/seed_0", "cnn"),
        ("seed_0", "."),
        ("seed_0_alpha_1", "alpha_1"),
        ("reseed_0/split_seed_1", "reseed_0/split_seed_1"),
        ("cnn", "cnn"),
    ],
)
def test_path_without_its_seed(path: str, name: str) -> None:
    assert without_seed(path) == name


def test_runs_that_differ_in_seed_only_have_one_name(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for seed in (0, 1):
        make_run(f"lr_0.1_seed_{seed}", params=cnn | {"seed": seed}, val=(0.5, 0.5))
        make_run(f"wide_seed_{seed}", params=cnn | {"seed": seed, "num_epochs": 9}, val=(0.5, 0.5))
    assert group_names(results(tmp_path)).to_dict() == {
        "lr_0.1_seed_0": "lr_0.1",
        "lr_0.1_seed_1": "lr_0.1",
        "wide_seed_0": "wide",
        "wide_seed_1": "wide",
    }


def test_runs_that_differ_in_more_keep_their_paths(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run("cnn/seed_0", params=cnn | {"seed": 0}, val=(0.5, 0.5))
    make_run("cnn/seed_1", params=cnn | {"seed": 1, "num_epochs": 9}, val=(0.5, 0.5))
    assert group_names(results(tmp_path)).tolist() == ["cnn/seed_0", "cnn/seed_1"]


def test_group_without_a_common_path_is_named_by_its_runs(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    for seed, name in enumerate(("again", "once")):
        make_run(name, params=cnn | {"seed": seed}, val=(0.5, 0.5))
    assert group_names(results(tmp_path)).tolist() == ["again, once", "again, once"]


def test_descriptions_make_no_groups(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    for seed in (0, 1):
        make_run(f"cnn/seed_{seed}", params=cnn | {"seed": seed, "description": f"seed {seed}"}, val=(0.5, 0.5))
    assert group_names(results(tmp_path)).tolist() == ["cnn", "cnn"]


def test_varied_parameters_are_those_in_which_all_runs_differ(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    for seed, alpha in ((0, 0.1), (1, 0.9)):
        loss = {"kd": {"alpha": alpha, "temperature": 4.0}}
        make_run(f"alpha_{alpha}", params=cnn | {"seed": seed, "loss": loss}, val=(0.5, 0.5))
    assert varied_params(results(tmp_path)) == ["loss.kd.alpha"]


def test_choices_stand_for_the_parameters_that_follow_from_them(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]
) -> None:
    choices = {name: {"student.num_channels": number, "batch_size": number} for name, number in (("s", 8), ("l", 64))}
    write(
        tmp_path / "search.json", {"method": "grid", "parameters": {"size": {"choices": choices}, "num_epochs": [3, 9]}}
    )
    write(tmp_path / "params.json", cnn)
    for name, number in (("s", 8), ("l", 64)):
        for epochs in (3, 9):
            student = cnn["student"] | {"num_channels": number}
            params = cnn | {"student": student, "batch_size": number, "num_epochs": epochs}
            make_run(f"size_{name}_num_epochs_{epochs}", params=params, val=(0.5, 0.5))
    assert varied_params(results(tmp_path)) == ["size", "num_epochs"]
