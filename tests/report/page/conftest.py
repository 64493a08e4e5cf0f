"""A grid of two parameters and two seeds, and a failed run with a name that would be code if it were not text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.report.page.page import write_page
from model.report.runs import Runs

from ..conftest import MakeRun

HOSTILE = "</script><script>document.title='pwned'<"  # two folders: "<", and "script>..." in it


@pytest.fixture
def grid(make_run: MakeRun, tmp_path: Path, cnn: dict[str, Any], finished: dict[str, Any]) -> Path:
    teacher = {"teacher": "experiments/teacher"}
    for alpha, val in ((0.5, 0.7), (0.9, 0.8)):
        for temperature, more in ((4.0, 0.02), (10.0, 0.05)):
            for seed in (0, 1):
                accuracy = val + more + seed / 100
                folder = make_run(
                    f"grid/alpha_{alpha:g}_temperature_{temperature:g}_seed_{seed}",
                    params=cnn | teacher | {"loss": {"kd": {"alpha": alpha, "temperature": temperature}}, "seed": seed},
                    run=finished | {"parameters": 22954, "macs": 800000},
                    val=(accuracy, accuracy),
                    test=(accuracy - 0.1, accuracy - 0.1),
                )
                epochs = [{"epoch": epoch, "val_accuracy": accuracy - 0.1 / epoch} for epoch in (1, 2, 3)]
                (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    failed = make_run(f"grid/{HOSTILE}", params=cnn, run={"state": "failed", "error": "the loss is <b>nan</b>"})
    (failed / "train.log").write_text("epoch 1\n<i>loss</i> is nan\n")
    return tmp_path / "grid"


@pytest.fixture
def page(grid: Path) -> Path:
    return write_page(Runs.read(grid), "python synthesize_results.py --report")
