"""Speeds of the training loop, compared with a bare loop and with a conventional one.

    make bench

One process times all loops of a table in turn, for several rounds, and prints medians; ratios are taken within a round,
since speeds drift over minutes. benchmarks/processes.py times commands afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import processes
from benchmarks.loops import BATCH_SIZE, BenchmarkRuns, Step, bare_loop, conventional_loop, training_loop
from model.build.experiment import EVAL_BATCH_SIZE
from model.build.runtime import Runtime, find_device
from model.commands.provenance import processor
from model.evaluation.metrics import predict
from model.home import ROOT
from model.training.precision import resolve_precision

Speeds = Mapping[str, Sequence[float]]  # images a second of each loop, a value per round


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training loop and compare it with other loops.")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="times that every loop is timed (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each timing (default: 2)")
    parser.add_argument("--loops_only", action="store_true", help="do not time commands")
    args = parser.parse_args()

    logging.getLogger("retort").setLevel(logging.WARNING)
    runtime = Runtime(device=find_device(args.device), data_dir=args.data_dir)
    machine = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else processor()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {runtime.device}\n")
    times = {"rounds": args.rounds, "seconds": args.seconds, "device": runtime.device}
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as other:
        runs = BenchmarkRuns(Path(temporary), runtime)
        loop_table(runs, times)
        repdistiller_table(BenchmarkRuns(Path(other), runtime, batch_size=64), times)
        teacher_table(runs, times)
        student_table(runs, times)
        evaluation_table(runs, times)
    if not args.loops_only:
        processes.main(runtime)


def loop_table(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """The speed of a training step, alone and with a teacher."""
    runtime, batch = runs.runtime, runs.batch
    dtype = resolve_precision("auto", runtime.device)
    live, cached = runs.live_teacher("resnet18", compiled=True), runs.teacher("resnet18", cache=True)
    in_float32 = replace(batch, images=batch.images.contiguous())
    with conventional_loop(runtime, "ancestor") as conventional:
        speeds = time_loops(
            {
                "a": bare_loop("cnn", batch, dtype, runtime.device),
                "b": training_loop(runs.trainer()),
                "c": training_loop(runs.trainer(teacher=cached)),
                "d": training_loop(runs.trainer(teacher=live)),
                "teacher": lambda: live(batch),
                "e": conventional,
                "float32": bare_loop("cnn", in_float32, torch.float32, runtime.device),
            },
            **times,
        )
    descriptions = {
        "a": "bare: forward, backward, step on one fixed batch, best settings",
        "b": "train.py's loop, student alone",
        "c": "distilling, teacher outputs cached",
        "d": "distilling, the compiled teacher run on every batch",
        "teacher": "the compiled teacher's forward pass on one fixed batch",
        "e": "conventional: DataLoader with 2 workers, PIL transforms, float32, teacher on every batch, .item() a step",
        "float32": "as a, in float32 and channels-first",
    }
    print_table(
        ("loop", "student cnn, teacher ResNet-18, batch 128", "images/s", "of a"),
        [(name, descriptions[name], median_speed(speeds[name]), f"{ratio(speeds, name, 'a'):.3f}") for name in speeds],
    )
    sum_of_parts = [1 / (1 / a + 1 / t) for a, t in zip(speeds["a"], speeds["teacher"], strict=True)]
    print_table(
        ("ratio", "measured", "goal"),
        [
            ("b / a", f"{ratio(speeds, 'b', 'a'):.3f}", "0.95"),
            ("c / a", f"{ratio(speeds, 'c', 'a'):.3f}", "0.95"),
            (
                "d / (a and teacher one after the other)",
                f"{ratio({**speeds, 'sum': sum_of_parts}, 'd', 'sum'):.3f}",
                "0.95",
            ),
            ("c / e", f"{ratio(speeds, 'c', 'e'):.1f}", "28"),
            ("d / e", f"{ratio(speeds, 'd', 'e'):.2f}", "7"),
        ],
    )


def repdistiller_table(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """A pair of the field's benchmark, beside the loop of the repository that the benchmark comes from."""
    live = runs.live_teacher("resnet32x4", compiled=True)
    with conventional_loop(runs.runtime, "repdistiller") as conventional:
        speeds = time_loops(
            {
                "alone": training_loop(runs.trainer("resnet8x4")),
                "cached": training_loop(runs.trainer("resnet8x4", runs.teacher("resnet32x4", cache=True))),
                "live": training_loop(runs.trainer("resnet8x4", live)),
                "conventional": conventional,
            },
            batch_size=runs.batch_size,
            **times,
        )
    goals = {"cached": "9", "live": "5.5"}
    rows = [
        (name, median_speed(speeds[name]), f"{ratio(speeds, name, 'conventional'):.2f}", goals.get(name, ""))
        for name in speeds
    ]
    print_table(("resnet8x4 from resnet32x4, batch 64", "images/s", "of conventional", "goal"), rows)


def teacher_table(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """The forward pass of frozen networks, as they are and compiled."""
    rows = []
    for name in ("resnet18", "resnet32x4", "wrn_40_2"):
        loops: dict[str, Step] = {}
        for compiled in (False, True):
            teacher = runs.live_teacher(name, compiled=compiled)
            loops["compiled" if compiled else "eager"] = partial(teacher, runs.batch)
        start = time.perf_counter()
        loops["compiled"]()
        seconds = time.perf_counter() - start
        speeds = time_loops(loops, **times)
        gain = f"{ratio(speeds, 'compiled', 'eager'):.2f}"
        rows.append((name, median_speed(speeds["eager"]), median_speed(speeds["compiled"]), gain, f"{seconds:.0f}"))
    print_table(("teacher", "as it is, images/s", "compiled", "ratio", "seconds to compile"), rows)


def student_table(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """The overhead of the training loop for networks of several sizes."""
    dtype, device = resolve_precision("auto", runs.runtime.device), runs.runtime.device
    rows = []
    for name in ("cnn", "resnet20", "wrn_16_2", "resnet18"):
        steps = {"bare": bare_loop(name, runs.batch, dtype, device), "train.py": training_loop(runs.trainer(name))}
        speeds = time_loops(steps, **times)
        rows.append(
            (
                name,
                median_speed(speeds["bare"]),
                median_speed(speeds["train.py"]),
                f"{ratio(speeds, 'train.py', 'bare'):.3f}",
            )
        )
    print_table(("student, alone", "bare, images/s", "train.py, images/s", "ratio"), rows)


def evaluation_table(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """The speed of evaluation relative to training."""
    dtype, device = resolve_precision("auto", runs.runtime.device), runs.runtime.device
    rows = []
    for name in ("cnn", "resnet18"):
        net = runs.trainer(name).student
        size = runs.data.size("test") / BATCH_SIZE  # since `time_loops` counts BATCH_SIZE images a step

        def evaluate(net: torch.nn.Module = net) -> None:
            predict(net, runs.data.eval_batches("test", EVAL_BATCH_SIZE), dtype=dtype, device=device)

        speeds = time_loops({"evaluation": evaluate, "train.py": training_loop(runs.trainer(name))}, **times)
        evaluation_speeds = [speed * size for speed in speeds["evaluation"]]
        speeds = {"evaluation": evaluation_speeds, "train.py": speeds["train.py"]}
        rows.append((name, median_speed(evaluation_speeds), f"{ratio(speeds, 'evaluation', 'train.py'):.2f}"))
    print_table(("evaluation of", "images/s", "of training"), rows)


def time_loops(
    steps: Mapping[str, Step], *, rounds: int, seconds: float, device: torch.device, batch_size: int = BATCH_SIZE
) -> dict[str, list[float]]:
    """Images a second of every loop in every round; the loops of a round are timed in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # warm up
    order = list(itertools.product(range(rounds), steps.items()))
    for _, (name, step) in tqdm(order, unit="timing", leave=False, disable=None):
        synchronize(device)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        synchronize(device)
        speeds[name].append(count * batch_size / (time.perf_counter() - start))
    return speeds


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(speeds: Speeds, name: str, to: str) -> float:
    """The median over the rounds of the ratio of two loops' speeds in the same round."""
    return statistics.median(one / other for one, other in zip(speeds[name], speeds[to], strict=True))


def median_speed(speeds: Sequence[float]) -> str:
    return f"{statistics.median(speeds):,.0f}"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
