"""The script synthesize_results.py: output, files, exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from model.home import ROOT

from .conftest import MakeRun


def synthesize(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "synthesize_results.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_table_is_printed_with_the_paths_of_its_files(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished, val=(0.5, 0.4))
    done = synthesize("--parent_dir", str(tmp_path))
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{table}\nwritten to {tmp_path}/results.md and {tmp_path}/results.csv\n"


def test_group_by_seed_makes_one_row_of_seeds(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    for seed, accuracy in enumerate((0.5, 0.7)):
        make_run(f"seed_{seed}", params=cnn | {"seed": seed}, run=finished, val=(accuracy, accuracy))
    done = synthesize("--parent_dir", str(tmp_path), "--group_by_seed")
    assert "60.00 ± 14.14" in done.stdout


def test_figures_are_written_beside_the_table(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished, val=(0.5, 0.4), test=(0.5, 0.4))
    done = synthesize("--parent_dir", str(tmp_path), "--figures")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"figures in {tmp_path}/figures: accuracies\n")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"accuracies.png", "accuracies.svg"}


def test_other_formats_are_printed_alone_and_written_too(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished, val=(0.5, 0.4), test=(0.5, 0.4))
    done = synthesize(
        "--parent_dir", str(tmp_path), "--format", "latex", "--columns", "test_best", "--sort_by=-seconds"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("\\begin{tabular}{lr}")
    assert done.stdout == (tmp_path / "results.tex").read_text(encoding="utf-8")


def test_an_empty_folder_is_the_users_mistake_in_one_line(tmp_path: Path) -> None:
    done = synthesize("--parent_dir", str(tmp_path))
    message = f"error: no runs under {tmp_path}: no folder in it holds a params.json or metrics\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_pivot_table_that_is_refused_leaves_no_files(
    tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any], finished: dict[str, Any]
) -> None:
    make_run("cnn", params=cnn, run=finished, val=(0.5, 0.4))
    done = synthesize("--parent_dir", str(tmp_path), "--pivot", "student", "no_such_parameter")
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (2, ["cnn"])


def test_a_folder_whose_name_is_no_text_is_a_row(tmp_path: Path, make_run: MakeRun, cnn: dict[str, Any]) -> None:
    make_run(os.fsdecode(b"caf\xe9"), params=cnn)
    done = synthesize("--parent_dir", str(tmp_path))
    assert done.returncode == 0
    assert "caf\\udce9" in done.stdout
    assert "caf\\udce9" in (tmp_path / "results.csv").read_text(encoding="utf-8")


def test_a_missing_folder_is_the_users_mistake_in_one_line(tmp_path: Path) -> None:
    done = synthesize("--parent_dir", str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path}/none: no such folder\n")
