"""Speeds on a GPU: the training step eager and compiled, teachers live and cached, batches, memory.

    make bench-gpu

The tables are docs/benchmarks.md's; a summary comes last. As in benchmarks/speed.py,
the loops of a table are timed in turn and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.loops import BATCH_SIZE, BenchmarkRuns, Step, training_loop, unbounded
from benchmarks.speed import Speeds, evaluation_table, loop_table, median_speed, print_table, ratio, time_loops
from model.build.runtime import Runtime, find_device
from model.errors import UserError
from model.home import ROOT
from model.logs import format_bytes
from model.registry import DATASETS
from model.training.probe import compile_student
from model.training.trainer import Trainer
from model.types import Pipeline, SplitOptions

STUDENTS = ("cnn", "resnet20", "wrn_16_2", "resnet18")
PAIRS = [("cnn", "resnet18"), ("resnet20", "resnet56"), ("wrn_16_2", "wrn_40_2")]  # students and teachers
PIPELINES: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "and cutout 16": {"cutout": 16},
    "and a strong view": {"strong_view": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training on a GPU.")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3, help="times that every loop is timed (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.5, help="duration of each timing (default: 0.5)")
    args = parser.parse_args()

    start = time.perf_counter()
    logging.getLogger("retort").setLevel(logging.WARNING)
    try:
        runtime = Runtime(device=find_device(args.device), data_dir=args.data_dir)
    except UserError as error:
        print(f"skipped: {error}")
        return
    print(f"{name_of(runtime.device)}, torch {torch.__version__}\n")
    times = {"rounds": args.rounds, "seconds": args.seconds, "device": runtime.device}
    summary: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        runs = BenchmarkRuns(Path(temporary), runtime)
        loop_table(runs, times)
        compile_table(runs, times, summary)
        teacher_table(runs, times, summary)
        evaluation_table(runs, times)
        pipeline_table(runs, times, summary)
    summary.append(f"all tables: {time.perf_counter() - start:.0f} seconds")
    print("Summary", *summary, sep="\n- ")


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def compile_table(runs: BenchmarkRuns, times: Mapping[str, Any], summary: list[str]) -> None:
    """The training loop with the student as it is, and compiled to CUDA graphs."""
    rows = []
    for name in STUDENTS:
        loops = {"eager": training_loop(runs.trainer(name))}
        memory, start = peak_memory_of(loops["eager"], runs.runtime.device), time.perf_counter()
        if (compiled := compiled_trainer(runs, name)) is not None:
            loops["compiled"] = training_loop(compiled)
            for batch in runs.data.train_batches(0, BATCH_SIZE):  # the last one is smaller, and is compiled anew
                compiled.take_step(batch)
        seconds = f"{time.perf_counter() - start:.0f}"
        speeds = time_loops(loops, **times)
        eager = median_speed(speeds["eager"])
        if compiled is None:
            rows.append((name, eager, "not compiled", "-", seconds, memory))
            summary.append(f"{name}: {eager} images/s eager; it cannot be compiled")
        else:
            gain = f"{ratio(speeds, 'compiled', 'eager'):.2f}"
            rows.append((name, eager, median_speed(speeds["compiled"]), gain, seconds, memory))
            summary.append(f"{name}: {eager} images/s eager, {gain} times as fast compiled")
    print_table(("student, alone", "eager, images/s", "compiled", "ratio", "seconds to compile", "memory"), rows)


def compiled_trainer(runs: BenchmarkRuns, student: str) -> Trainer | None:
    """None where the student cannot be compiled."""
    trainer = runs.trainer(student)
    compile_student(trainer.train_step, runs.batch)
    is_compiled = trainer.train_step.forward_student is not trainer.train_step.student
    return trainer if is_compiled else None


def teacher_table(runs: BenchmarkRuns, times: Mapping[str, Any], summary: list[str]) -> None:
    """Distilling with the teacher run on every batch, and with its outputs cached on the device."""
    rows = []
    for student, teacher in PAIRS:
        live, cached = (runs.teacher(teacher, cache=cache) for cache in (False, True))
        loops = {
            "alone": training_loop(runs.trainer(student)),
            "live": training_loop(runs.trainer(student, live)),
            "cached": with_cached_epoch(runs, runs.trainer(student, cached)),
        }
        speeds = time_loops(loops, **times)
        gain = f"{ratio(speeds, 'cached', 'live'):.2f}"
        rows.append((student, teacher, *(median_speed(speeds[name]) for name in loops), gain))
        summary.append(f"{student} from {teacher}: cached outputs are {gain} times as fast as a live teacher")
    print_table(("student", "teacher", "alone, images/s", "live", "cached", "cached / live"), rows)


def with_cached_epoch(runs: BenchmarkRuns, trainer: Trainer) -> Step:
    """The training loop over one epoch, again and again, all of whose outputs the teacher knows to be cached."""
    assert trainer.teacher is not None
    list(trainer.teacher.precompute(runs.data, epoch=0))
    batches = unbounded(lambda: runs.data.train_batches(0, BATCH_SIZE))
    trainer.student.train()
    return lambda: trainer.take_step(next(batches))


def pipeline_table(runs: BenchmarkRuns, times: Mapping[str, Any], summary: list[str]) -> None:
    """Batches alone, without a network."""
    source = DATASETS.build("cifar10_mini", runs.runtime.data_dir)
    loops: dict[str, Step] = {}
    for name, options in PIPELINES.items():
        loops[name] = endless_batches(source.open(SplitOptions(**options), seed=0, device=runs.runtime.device))
    speeds: Speeds = time_loops(loops, **times)
    print_table(
        ("batches of 128 alone", "images/s", "of the first"),
        [(name, median_speed(speeds[name]), f"{ratio(speeds, name, 'crop and flip'):.3f}") for name in loops],
    )
    summary.append(f"batches: {statistics.median(speeds['crop and flip']):,.0f} images/s")


def endless_batches(data: Pipeline) -> Step:
    batches: Iterator[Any] = unbounded(lambda: data.train_batches(0, BATCH_SIZE))
    return lambda: next(batches)


def peak_memory_of(step: Step, device: torch.device) -> str:
    """The largest memory that PyTorch allocates on a GPU in a step, with what is on it already."""
    if device.type != "cuda":
        return "-"
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return format_bytes(torch.cuda.max_memory_allocated(device))


if __name__ == "__main__":
    main()
