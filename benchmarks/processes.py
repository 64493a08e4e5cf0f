"""Times of commands: until the first training step, overhead of a search, throughput of parallel runs.

Called by benchmarks/speed.py. `python -m benchmarks.processes SECONDS` is the training loop of `time_parallel_runs`.
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
from benchmarks.loops import BATCH_SIZE, COMMON, BenchmarkRuns, training_loop
from model.build.runtime import Runtime
from model.config.folder import Folder
from model.cpus import thread_environment, usable_cpus
from model.files import read_json, write_json
from model.home import ROOT
from model.logs import format_bytes
from model.registry import DATASETS

REPEATS = 3
SECONDS = 10.0
# train.py, whose process exits after the first step.
TRAIN_ONE_STEP = """
import os, sys
from model.training.trainer import Trainer
take_step = Trainer.take_step
def take_step_and_exit(self, batch):
    take_step(self, batch)
    os._exit(0)
Trainer.take_step = take_step_and_exit
import train
sys.exit(train.main())
"""


def main(runtime: Runtime) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        rows = [*time_first_steps(Path(temporary), runtime), *time_search(Path(temporary), runtime)]
    print(tabulate(rows, headers=("command", "seconds", "goal"), tablefmt="pipe", disable_numparse=True), end="\n\n")
    if runtime.device.type == "cpu":
        rows = time_parallel_runs()
        print(tabulate(rows, headers=("parallel runs", "images/s, sum", "of one run"), tablefmt="pipe"), end="\n\n")


def time_first_steps(root: Path, runtime: Runtime) -> list[tuple[str, str, str]]:
    """Seconds from the command to the end of the first step; data set and teacher weights are on disk."""
    dataset = "cifar10" if DATASETS.build("cifar10", runtime.data_dir).is_ready() else "cifar10_mini"
    common = {**COMMON, "dataset": {"name": dataset}}
    runs = BenchmarkRuns(root, runtime)
    runs.teacher("resnet18", cache=False)  # makes its folder
    teacher = Folder(root / "resnet18")
    teacher.update_run(state="finished")
    rows: list[tuple[str, str, str]] = []
    for name, changes in {
        f"train.py, cnn alone, {dataset}": {},
        f"train.py, cnn from ResNet-18, {dataset}": {"loss": {"kd": {}}, "teacher": str(teacher.path)},
    }.items():
        folder = make_folder(root / f"start_{len(rows)}", common, changes)
        seconds = [
            time_command([sys.executable, "-c", TRAIN_ONE_STEP, *arguments(folder, runtime)]) for _ in range(REPEATS)
        ]
        rows.append((f"{name}: to the first step", f"{statistics.median(seconds):.1f}", "4"))
    folder = make_folder(root / "memory", common, {"num_epochs": 1})
    time_command([sys.executable, "train.py", *arguments(folder, runtime)])
    rows.append(
        (f"train.py, cnn alone, {dataset}: peak memory", format_bytes(read_json(folder.run)["peak_memory_bytes"]), "")
    )
    return rows


def time_search(root: Path, runtime: Runtime) -> list[tuple[str, str, str]]:
    """Seconds that a search adds to each of its runs."""
    common = {**COMMON, "student": {"name": "cnn", "num_channels": 4}, "num_epochs": 1}
    values = [1, 2, 3, 4]
    folders = [make_folder(root / f"alone_{seed}", common, {"seed": seed}) for seed in values]
    train_seconds = sum(time_command([sys.executable, "train.py", *arguments(folder, runtime)]) for folder in folders)
    parent = make_folder(root / "search", common, {})
    write_json(parent.path / "search.json", {"method": "grid", "parameters": {"seed": values}})
    options = ["--parent_dir", str(parent.path), "--data_dir", str(runtime.data_dir), "--device", runtime.device.type]
    search_seconds = time_command([sys.executable, "search_hyperparams.py", *options, "--jobs", "1"])
    overhead = (search_seconds - train_seconds) / len(values)
    return [("search_hyperparams.py: added to each run of train.py", f"{overhead:.1f}", "1")]


def time_parallel_runs() -> list[tuple[str, str, str]]:
    """Throughput of one run with all cores, and of as many runs as cores with one or all threads each."""
    cores = usable_cpus()
    one = images_per_second(runs=1, threads=cores)
    many = images_per_second(runs=cores, threads=1)
    oversubscribed = images_per_second(runs=cores, threads=cores)
    return [
        (f"1 of {cores} threads", f"{one:,.0f}", "1.00"),
        (f"{cores} of 1 thread each", f"{many:,.0f}", f"{many / one:.2f}"),
        (f"{cores} of {cores} threads each", f"{oversubscribed:,.0f}", f"{oversubscribed / one:.2f}"),
    ]


def images_per_second(*, runs: int, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.processes", str(SECONDS)]
    workers = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | thread_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(runs)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # wait until it is ready
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def run_training_loop(seconds: float) -> None:
    """Wait for a line on stdin, run the training loop for some seconds, print images a second."""
    runtime = Runtime(device=torch.device("cpu"), data_dir=ROOT / "data")
    with tempfile.TemporaryDirectory() as temporary:
        step = training_loop(BenchmarkRuns(Path(temporary), runtime).trainer())
        step()
        print("ready", flush=True)
        input()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        print(count * BATCH_SIZE / (time.perf_counter() - start), flush=True)


def make_folder(path: Path, common: dict[str, Any], changes: dict[str, Any]) -> Folder:
    folder = Folder(path)
    path.mkdir()
    write_json(folder.params, common | changes)
    return folder


def arguments(folder: Folder, runtime: Runtime) -> list[str]:
    return ["--model_dir", str(folder.path), "--data_dir", str(runtime.data_dir), "--device", runtime.device.type]


def time_command(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_training_loop(float(sys.argv[1]))
