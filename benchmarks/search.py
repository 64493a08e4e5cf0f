"""The overhead of the driver in a search of many runs: its CPU time, its memory, and the time of a second call.

    python -m benchmarks.search             1,000 runs
    python -m benchmarks.search --runs 100

The runs train nothing (tests/search/fake_train.py) and take a moment each, so that nearly all the time is the driver's.
`python -m benchmarks.search --drive FOLDER` is that driver.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import REPOSITORY
from model.files import write_json
from model.logs import format_bytes
from model.search.driver import search
from model.search.executors.local import LocalExecutor

TRAIN = REPOSITORY / "tests" / "search" / "fake_train.py"
BASE = {
    "dataset": {"name": "cifar10"},
    "student": {"name": "cnn"},
    "loss": {"kd": {"alpha": 0.9, "temperature": 4.0}},
    "num_epochs": 2,
}
FEW_RUNS = 100  # to compare the memory with
HEADERS = ("a search of", "driver's CPU a run", "peak memory", f"of {FEW_RUNS} runs", "seconds to resume")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the driver of a search.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--drive", type=Path, help="search in this folder and print the measurements")
    args = parser.parse_args()
    if args.drive:
        print(json.dumps(drive(args.drive)))
        return
    rows = [measure_row(method, args.runs) for method in ("grid", "tpe")]
    rows.append(("goals", "20 ms", "", "flat", "2"))
    print(tabulate(rows, headers=HEADERS, tablefmt="pipe", disable_numparse=True))


def measure_row(method: str, num_runs: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as temporary:
        few = drive_in_process(write_search(Path(temporary) / "few", method, FEW_RUNS))
        folder = write_search(Path(temporary) / "many", method, num_runs)
        many = drive_in_process(folder)
        second_call = drive_in_process(folder)
    return (
        f"{num_runs} runs, {method}",
        f"{1000 * many['cpu'] / num_runs:.1f} ms",
        format_bytes(many["memory"]),
        format_bytes(few["memory"]),
        f"{second_call['seconds']:.2f}",
    )


def write_search(folder: Path, method: str, num_runs: int) -> Path:
    """The folder of a search whose runs are all new."""
    folder.mkdir()
    write_json(folder / "params.json", BASE)
    values = {"values": [round(0.1 + 0.8 * number / num_runs, 6) for number in range(num_runs)]}
    ranges = {"min": 0.1, "max": 0.9}
    space = {"grid": {}, "tpe": {"run_cap": num_runs}}[method]
    write_json(folder / "search.json", space | {"method": method, "parameters": {"alpha": ranges if space else values}})
    return folder


def drive_in_process(folder: Path) -> dict[str, Any]:
    """What `drive` returns, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search", "--drive", str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    measurements: dict[str, Any] = json.loads(done.stdout)
    return measurements


def drive(folder: Path) -> dict[str, float]:
    """Search, and return the seconds until the end, the CPU seconds of this process, and its peak memory."""
    command = [sys.executable, "-IS", str(TRAIN), "--events", os.devnull]
    start = time.perf_counter()
    assert search(folder, command=command, make_executor=partial(LocalExecutor.for_runs, device="cpu")) == 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * unit,
    }


if __name__ == "__main__":
    main()
