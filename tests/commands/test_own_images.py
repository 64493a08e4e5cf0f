"""The page on own images: its commands, one after another, on photos as people have them; small and for a moment."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.files import read_json, write_json
from model.home import ROOT
from model.registry import NETS
from tests.photos import write_photos
from tests.report.markdown_tables import column

PAGE = (ROOT / "docs" / "own_images.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
SMALLER = {"num_epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with photos and the shipped experiments, in small."""
    home = tmp_path_factory.mktemp("home")
    assert write_photos(home / "data" / "photos", share=0.1, longest=140) == 2
    for name, size in (("teacher", 64), ("student", 32)):
        source, copy = ROOT / "experiments" / "own_images" / name, home / "experiments" / "own_images" / name
        params = read_json(source / "params.json")
        params["dataset"] |= {"image_size": size, "num_workers": 0, "views_per_image": 2}
        copy.mkdir(parents=True)
        write_json(copy / "params.json", params | SMALLER)
        if (source / "search.json").exists():
            search = read_json(source / "search.json")
            search["parameters"]["seed"]["values"] = [0, 1]
            write_json(copy / "search.json", search)
    weights = home / "torch" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    torch.save(NETS.build("torchvision/resnet18", 1000, 3, 224).state_dict(), weights / "resnet18-f37072fd.pth")
    return home


@pytest.fixture(scope="module")
def outputs(home: Path) -> list[str]:
    """What each command of the page prints."""
    assert COMMANDS is not None
    environment = os.environ | {
        "RETORT_HOME": str(home),
        "TORCH_HOME": str(home / "torch"),
        "OMP_NUM_THREADS": "1",
    }
    printed = []
    for line in COMMANDS[1].splitlines():
        script, *arguments = shlex.split(line.removeprefix("python "))
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout + done.stderr)
    return printed


def test_there_are_ten_commands_at_most(outputs: list[str]) -> None:
    assert 1 <= len(outputs) <= 10


def test_broken_photos_are_named_and_left_out(outputs: list[str], home: Path) -> None:
    assert "2 of" in outputs[0]
    run: dict[str, Any] = read_json(home / "experiments/own_images/teacher/run.json")
    assert sorted(run["skipped"]) == ["ant/IMG_0004.jpg", "eel/IMG_0004.jpg"]


def test_the_table_compares_the_distilled_student_with_the_one_alone(outputs: list[str], home: Path) -> None:
    table = (home / "experiments/own_images/results.md").read_text()
    verdicts = dict(zip(column(table, "path"), column(table, "verdict"), strict=True))
    assert verdicts["student/student_alone"] == "baseline"
    assert verdicts["student/student_distilled"] in ("better", "worse", "not shown")
    assert (home / "experiments/own_images/report.html").exists()


def test_the_teacher_is_run_at_most_once_on_each_view(outputs: list[str], home: Path) -> None:
    runs = [read_json(path) for path in (home / "experiments/own_images/student").glob("*distilled*/run.json")]
    num_images = runs[0]["fingerprint"]["train"]["images"]
    assert len(runs) == 2
    assert 0 < sum(run["teacher_images"]["run"] for run in runs) <= 2 * num_images


def test_the_teacher_sees_its_own_size_and_is_measured_first(outputs: list[str], home: Path) -> None:
    run = read_json(next((home / "experiments/own_images/student").glob("*distilled_seed_0/run.json")))
    assert run["preprocessing"]["image_shape"] == [3, 32, 32]
    assert list(run["teacher_accuracy"]) == ["experiments/own_images/teacher"]
    about = read_json(next((home / "experiments/own_images/teacher/cache").glob("*/about.json")))
    assert about["image_shape"] == [3, 64, 64]
