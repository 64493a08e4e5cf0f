"""The benchmarks' runs can be built and take a step; speed is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loops import BenchmarkRuns
from model.build.runtime import Runtime


@pytest.mark.parametrize("cache", [False, True])
def test_benchmark_run_with_a_teacher_takes_a_step(cache: bool, tmp_path: Path, runtime: Runtime) -> None:
    runs = BenchmarkRuns(tmp_path, runtime)
    trainer = runs.trainer(teacher=runs.teacher("cnn", cache=cache))
    trainer.take_step(runs.batch)
    assert trainer.step == 1
