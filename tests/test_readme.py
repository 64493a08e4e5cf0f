"""The README's commands and examples do what it says; the experiments behind them are shrunk to seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.home import ROOT
from model.registry import DATASETS, LOSSES, NETS, Registry
from model.types import Output, SplitOptions

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python (\w+\.py .*?) +#", README, flags=re.MULTILINE)
COPIED = (
    "train.py",
    "evaluate.py",
    "search_hyperparams.py",
    "synthesize_results.py",
    "retort.py",
    "Makefile",
    "model",
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A copy of the project in which every experiment takes a moment."""
    root = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, root / name, ignore=ignored) if source.is_dir() else shutil.copy(source, root / name)
    for path in (ROOT / "experiments").rglob("*.*"):
        if path.name in ("params.json", "search.json", "NEXT.txt"):
            copy = root / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text() if path.suffix == ".txt" else json.dumps(shrunk(path, tiny_data)))
    return root


def shrunk(path: Path, tiny_data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    if path.name == "search.json":  # the first value of each parameter, and two of the last
        names = list(content["parameters"])
        for name, parameter in content["parameters"].items():
            number = 2 if name == names[-1] else 1
            if "choices" in parameter:
                content["parameters"][name] = {"choices": dict(list(parameter["choices"].items())[:number])}
            elif not (isinstance(parameter, dict) and "min" in parameter):
                values = parameter["values"] if isinstance(parameter, dict) else parameter
                content["parameters"][name] = values[:number]
        return content
    student = {"name": "cnn", "num_channels": 2} | {k: v for k, v in content["student"].items() if k == "num_channels"}
    content["student"] = student | {"num_channels": 2}
    content["dataset"] = {"name": "arrays", "path": str(tiny_data), "pad": 1}
    return content | {"num_epochs": 1}


def run(clone: Path, command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=clone,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_names_the_four_commands() -> None:
    assert [command.split()[0] for command in COMMANDS] == [
        "train.py",
        "evaluate.py",
        "search_hyperparams.py",
        "synthesize_results.py",
    ]


def test_commands_of_the_readme_run_one_after_the_other(clone: Path) -> None:
    outputs = [run(clone, command) for command in COMMANDS]
    assert (clone / "experiments/cnn_distill/metrics_test_best_weights.json").exists()
    assert "| class" in outputs[1]
    assert "alpha_0.05_temperature_2" in outputs[2]
    assert "base_resnet18" in outputs[3]  # the teacher, which was missing and so was made


def test_quickstart_ends_with_a_table_and_where_to_look_next(clone: Path) -> None:
    listed = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.user", "quickstart"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = re.findall(r"^\.venv/bin/python ((?:search|synthesize)\S+ .*)$", listed, flags=re.MULTILINE)
    assert len(commands) == 2
    outputs = [run(clone, command) for command in commands]
    assert re.search(r"^\| student.*\| *2 \|", outputs[-1], flags=re.MULTILINE)  # a row that stands for two seeds
    assert "cat experiments/quickstart/NEXT.txt" in listed
    assert "docs" in (ROOT / "experiments/quickstart/NEXT.txt").read_text()


# The examples -------------------------------------------------------------------------------------------------------


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def registries() -> Iterator[None]:
    """What the examples register is taken out of the registries again."""
    registries: tuple[Registry[Any], ...] = (LOSSES, NETS, DATASETS)
    before = [dict(registry._functions) for registry in registries]
    yield
    for registry, functions in zip(registries, before, strict=True):
        registry._functions = functions


def pasted(block: str) -> dict[str, Any]:
    """The names that a block defines, run as a file of its own: its imports are all that it has."""
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(block, names)
    return names


@pytest.mark.usefixtures("registries")
def test_the_loss_of_the_readme_can_be_pasted() -> None:
    _, loss_block = python_blocks("README.md")
    pasted(loss_block)
    student, teacher = (Output(logits, logits) for logits in torch.randn(2, 16, 5))
    loss = LOSSES.build("mse_probabilities", temperature=2.0)
    expected = ((student.logits / 2).softmax(1) - (teacher.logits / 2).softmax(1)).square().mean()
    assert torch.allclose(loss(student, teacher, None), expected)


@pytest.mark.usefixtures("registries")
def test_the_examples_of_the_page_on_extending_can_be_pasted() -> None:
    for block in python_blocks("docs/extending.md"):
        pasted(block)
    data = DATASETS.build("noise", Path("data")).open(SplitOptions(), seed=0, device=torch.device("cpu"))
    batch = next(iter(data.train_batches(0, 16)))
    net = NETS.build("perceptron", 2, 3, 32, width=10)
    student, teacher = net(batch.images), NETS.build("perceptron", 2, 3, 32)(batch.images)
    loss = LOSSES.build("mse_logits")
    right = [int(logits.argmax()) == int(label) for logits, label in zip(teacher.logits, batch.labels, strict=True)]
    assert 0 < sum(right) < 16
    errors = ((student.logits - teacher.logits) ** 2).mean(dim=1)[right]
    assert torch.allclose(loss(student, teacher, batch), errors.sum() / 16)


def test_the_python_example_of_the_readme_runs(clone: Path) -> None:
    block, _ = python_blocks("README.md")
    example = clone / "example.py"
    example.write_text(block)
    output = run(clone, "example.py")
    assert "('0', '1'," in output  # the class names of the small data set
    assert re.search(r"^teacher +0\.\d+$", output, flags=re.MULTILINE)
