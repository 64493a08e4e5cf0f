"""Whole commands: how long until the first step, what a search adds to its runs, how many runs at once are best.

Called by benchmarks/speed.py. `python -m benchmarks.processes SECONDS` is the training loop for `runs_at_once`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks import REPOSITORY
from benchmarks.loops import BATCH_SIZE, COMMON, BenchmarkRuns, trained
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.files import read_json, write_json
from model.home import ROOT
from model.logs import format_bytes
from model.registry import DATASETS
from model.search.executors.local import num_cores

REPEATS = 3
SECONDS = 10.0
# train.py, ended by its first step.
UNTIL_THE_FIRST_STEP = """
import os, sys
from model.training.trainer import Trainer
take_step = Trainer.take_step
def first(self, batch):
    take_step(self, batch)
    os._exit(0)
Trainer.take_step = first
import train
sys.exit(train.main())
"""


def main(runtime: Runtime) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        rows = [*first_steps(Path(temporary), runtime), *searches(Path(temporary), runtime)]
    print(tabulate(rows, headers=("command", "seconds", "goal"), tablefmt="pipe", disable_numparse=True), end="\n\n")
    if runtime.device.type == "cpu":
        rows = runs_at_once()
        print(tabulate(rows, headers=("runs at once", "images/s together", "of one"), tablefmt="pipe"), end="\n\n")


def first_steps(root: Path, runtime: Runtime) -> list[tuple[str, str, str]]:
    """From the command to the end of the first step, with the data set's files and the teacher's answers there."""
    dataset = "cifar10" if DATASETS.build("cifar10", runtime.data_dir).is_ready() else "cifar10_mini"
    common = {**COMMON, "dataset": {"name": dataset}}
    runs = BenchmarkRuns(root, runtime)
    runs.teacher("resnet18", cache=False)  # makes its folder
    guide = Folder(root / "resnet18")
    guide.update_run(state="finished")
    rows: list[tuple[str, str, str]] = []
    for name, changes in {
        f"train.py, cnn alone, {dataset}": {},
        f"train.py, cnn from ResNet-18, {dataset}": {"loss": {"kd": {}}, "teacher": str(guide.path)},
    }.items():
        folder = made(root / f"start_{len(rows)}", common, changes)
        seconds = [
            seconds_of([sys.executable, "-c", UNTIL_THE_FIRST_STEP, *where(folder, runtime)]) for _ in range(REPEATS)
        ]
        rows.append((f"{name}: to the first step", f"{statistics.median(seconds):.1f}", "4"))
    folder = made(root / "memory", common, {"num_epochs": 1})
    seconds_of([sys.executable, "train.py", *where(folder, runtime)])
    rows.append(
        (f"train.py, cnn alone, {dataset}: peak memory", format_bytes(read_json(folder.run)["peak_memory_bytes"]), "")
    )
    return rows


def searches(root: Path, runtime: Runtime) -> list[tuple[str, str, str]]:
    """What a search takes beyond its runs, a run."""
    common = {**COMMON, "student": {"name": "cnn", "num_channels": 4}, "num_epochs": 1}
    values = [1, 2, 3, 4]
    alone = sum(
        seconds_of([sys.executable, "train.py", *where(made(root / f"alone_{seed}", common, {"seed": seed}), runtime)])
        for seed in values
    )
    parent = made(root / "search", common, {})
    write_json(parent.path / "search.json", {"method": "grid", "parameters": {"seed": values}})
    options = ["--parent_dir", str(parent.path), "--data_dir", str(runtime.data_dir), "--device", runtime.device.type]
    together = seconds_of([sys.executable, "search_hyperparams.py", *options, "--jobs", "1"])
    added = (together - alone) / len(values)
    return [("search_hyperparams.py: a run, beyond train.py itself", f"{added:.1f}", "1")]


def runs_at_once() -> list[tuple[str, str, str]]:
    """The cores of this machine given to one run, or one to each of as many runs."""
    cores = num_cores()
    one = images_per_second(runs=1, threads=cores)
    many = images_per_second(runs=cores, threads=1)
    crowded = images_per_second(runs=cores, threads=cores)
    return [
        (f"1 of {cores} threads", f"{one:,.0f}", "1.00"),
        (f"{cores} of 1 thread each", f"{many:,.0f}", f"{many / one:.2f}"),
        (f"{cores} of {cores} threads each", f"{crowded:,.0f}", f"{crowded / one:.2f}"),
    ]


def images_per_second(*, runs: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.processes", str(SECONDS)]
    workers = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(runs)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # it is ready
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def work(seconds: float) -> None:
    """The loop of train.py for some seconds, when a line comes; prints images a second."""
    runtime = Runtime(device=torch.device("cpu"), data_dir=ROOT / "data")
    with tempfile.TemporaryDirectory() as temporary:
        step = trained(BenchmarkRuns(Path(temporary), runtime).trainer())
        step()
        print("ready", flush=True)
        input()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        print(count * BATCH_SIZE / (time.perf_counter() - start), flush=True)


def made(path: Path, common: dict[str, Any], changes: dict[str, Any]) -> Folder:
    folder = Folder(path)
    path.mkdir()
    write_json(folder.params, common | changes)
    return folder


def where(folder: Folder, runtime: Runtime) -> list[str]:
    return ["--model_dir", str(folder.path), "--data_dir", str(runtime.data_dir), "--device", runtime.device.type]


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    work(float(sys.argv[1]))
