"""The benchmarks' runs can be built and take a step; speed is not tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import gpu, images
from benchmarks.loops import BenchmarkRuns
from model.build.runtime import Runtime


@pytest.mark.parametrize("cache", [False, True])
def test_benchmark_run_with_a_teacher_takes_a_step(cache: bool, tmp_path: Path, runtime: Runtime) -> None:
    runs = BenchmarkRuns(tmp_path, runtime)
    trainer = runs.trainer(teacher=runs.teacher("cnn", cache=cache))
    trainer.take_step(runs.batch)
    assert trainer.step == 1


def test_gpu_benchmark_without_a_gpu_says_that_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda:99"])
    gpu.main()
    assert capsys.readouterr().out.startswith("skipped: --device cuda:99: ")


def test_gpu_benchmark_compares_cached_with_live_teachers(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "PAIRS", [("cnn", "cnn")])
    summary: list[str] = []
    times = {"rounds": 1, "seconds": 0.001, "device": runtime.device}
    gpu.teacher_table(BenchmarkRuns(tmp_path, runtime), times, summary)
    assert "| cnn " in capsys.readouterr().out
    assert summary[0].startswith("cnn from cnn: cached outputs are ")


def test_image_benchmark_times_every_option_beside_the_plain_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PHOTOS", {"small": (300, 280, 4)})
    rows = list(images.compare(tmp_path, "small", worker_counts=[0], rounds=1))
    assert [row[:3] for row in rows] == [["small", "0", options] for options in images.OURS]
    assert all(float(row[4]) > 0 for row in rows)
