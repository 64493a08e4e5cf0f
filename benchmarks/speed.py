"""Speeds of the training loop, beside what they could be and what they usually are.

    make bench

One process times all loops of a table in turn, several rounds each, and prints medians; ratios are taken within a
round, as absolute figures move from minute to minute. benchmarks/processes.py times whole commands afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks import processes
from benchmarks.loops import BATCH_SIZE, BenchmarkRuns, Step, bare, conventional, trained
from model.build.runtime import Runtime, find_device
from model.build.trainer import EVAL_BATCH_SIZE
from model.commands.provenance import processor
from model.evaluation.metrics import predict
from model.home import ROOT
from model.training.precision import resolve_precision

Speeds = Mapping[str, Sequence[float]]  # images a second of each loop, a figure a round


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training loop beside other loops.")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="times that every loop is timed (default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing (default: 2)")
    parser.add_argument("--loops_only", action="store_true", help="leave out the timings of whole commands")
    args = parser.parse_args()

    logging.getLogger("retort").setLevel(logging.WARNING)
    runtime = Runtime(device=find_device(args.device), data_dir=args.data_dir)
    machine = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else processor()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {runtime.device}\n")
    with tempfile.TemporaryDirectory() as temporary:
        runs = BenchmarkRuns(Path(temporary), runtime)
        times = {"rounds": args.rounds, "seconds": args.seconds, "device": runtime.device}
        loops(runs, times)
        students(runs, times)
        evaluation(runs, times)
    if not args.loops_only:
        processes.main(runtime)


def loops(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """The table of the step."""
    runtime, batch = runs.runtime, runs.batch
    dtype = resolve_precision("auto", runtime.device)
    live, cached = (runs.teacher("resnet18", cache=cache) for cache in (False, True))
    in_float32 = batch._replace(images=batch.images.contiguous())
    with conventional(runtime) as usual:
        speeds = timed(
            {
                "a": bare("cnn", batch, dtype, runtime.device),
                "b": trained(runs.trainer()),
                "c": trained(runs.trainer(teacher=cached)),
                "d": trained(runs.trainer(teacher=live)),
                "teacher": lambda: live(batch),
                "e": usual,
                "float32": bare("cnn", in_float32, torch.float32, runtime.device),
            },
            **times,
        )
    what = {
        "a": "bare: forward, backward, step on one fixed batch, best settings",
        "b": "train.py's loop, student alone",
        "c": "distilling, the teacher's answers kept",
        "d": "distilling, the teacher run on every batch",
        "teacher": "the teacher's forward on one fixed batch, nothing else",
        "e": "conventional: DataLoader with 2 workers, PIL transforms, float32, teacher on every batch, .item() a step",
        "float32": "as a, in float32 and channels-first",
    }
    table(
        ("loop", "student cnn, teacher ResNet-18, batch 128", "images/s", "of a"),
        [(name, what[name], shown(speeds[name]), f"{ratio(speeds, name, 'a'):.3f}") for name in speeds],
    )
    sum_of_parts = [1 / (1 / a + 1 / t) for a, t in zip(speeds["a"], speeds["teacher"], strict=True)]
    table(
        ("ratio", "measured", "goal"),
        [
            ("b / a", f"{ratio(speeds, 'b', 'a'):.3f}", "0.95"),
            ("c / a", f"{ratio(speeds, 'c', 'a'):.3f}", "0.90"),
            (
                "d / (a and teacher one after the other)",
                f"{ratio({**speeds, 'sum': sum_of_parts}, 'd', 'sum'):.3f}",
                "0.95",
            ),
            ("c / e", f"{ratio(speeds, 'c', 'e'):.1f}", "25"),
            ("d / e", f"{ratio(speeds, 'd', 'e'):.2f}", "3.4"),
        ],
    )


def students(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """What the loop costs over the network, for networks of several sizes."""
    dtype, device = resolve_precision("auto", runs.runtime.device), runs.runtime.device
    rows = []
    for name in ("cnn", "resnet20", "wrn_16_2", "resnet18"):
        steps = {"bare": bare(name, runs.batch, dtype, device), "train.py": trained(runs.trainer(name))}
        speeds = timed(steps, **times)
        rows.append(
            (name, shown(speeds["bare"]), shown(speeds["train.py"]), f"{ratio(speeds, 'train.py', 'bare'):.3f}")
        )
    table(("student, alone", "bare, images/s", "train.py, images/s", "ratio"), rows)


def evaluation(runs: BenchmarkRuns, times: Mapping[str, Any]) -> None:
    """Evaluation beside a forward pass in training mode without its backward pass."""
    dtype, device = resolve_precision("auto", runs.runtime.device), runs.runtime.device
    rows = []
    for name in ("cnn", "resnet18"):
        net = runs.trainer(name).student
        size = runs.data.size("test") / BATCH_SIZE  # as `timed` counts steps of a batch

        def evaluate(net: torch.nn.Module = net) -> None:
            predict(net, runs.data.eval_batches("test", EVAL_BATCH_SIZE), dtype=dtype, device=device)

        speeds = timed({"evaluation": evaluate, "train.py": trained(runs.trainer(name))}, **times)
        found = [speed * size for speed in speeds["evaluation"]]
        both = {"evaluation": found, "train.py": speeds["train.py"]}
        rows.append((name, shown(found), f"{ratio(both, 'evaluation', 'train.py'):.2f}"))
    table(("evaluation of", "images/s", "of training"), rows)


def timed(steps: Mapping[str, Step], *, rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Images a second of every loop, once a round, the loops in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # warm up
    turns = list(itertools.product(range(rounds), steps.items()))
    for _, (name, step) in tqdm(turns, unit="timing", leave=False, disable=None):
        wait(device)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        wait(device)
        speeds[name].append(count * BATCH_SIZE / (time.perf_counter() - start))
    return speeds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(speeds: Speeds, name: str, to: str) -> float:
    """The median over the rounds of one loop's speed by another's in the same round."""
    return statistics.median(one / other for one, other in zip(speeds[name], speeds[to], strict=True))


def shown(speeds: Sequence[float]) -> str:
    return f"{statistics.median(speeds):,.0f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
