"""The benchmarks' runs can be made; how fast they are is no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loops import Workshop
from model.build.runtime import Runtime


@pytest.mark.parametrize("cache", [False, True])
def test_a_run_with_a_teacher_takes_a_step(cache: bool, tmp_path: Path, place: Runtime) -> None:
    workshop = Workshop(tmp_path, place)
    trainer = workshop.trainer(teacher=workshop.teacher("cnn", cache=cache))
    trainer.train_step(workshop.batch)
    assert trainer.step == 1
