"""What a search of many runs costs beside the runs: the driver's CPU, its memory, and the time until it goes on.

    python -m benchmarks.search             1,000 runs
    python -m benchmarks.search --runs 100

The runs train nothing (tests/search/fake_train.py): each lasts a moment, so nearly all that is measured is the driver.
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

from model.files import write_json
from model.home import ROOT
from model.logs import format_bytes
from model.search.driver import search
from model.search.executors.local import LocalExecutor

TRAIN = ROOT / "tests" / "search" / "fake_train.py"
BASE = {
    "dataset": {"name": "cifar10"},
    "student": {"name": "cnn"},
    "loss": {"kd": {"alpha": 0.9, "temperature": 4.0}},
    "num_epochs": 2,
}
FEW = 100  # runs, to compare the memory with
HEADERS = ("a search of", "driver's CPU a run", "peak memory", f"of {FEW} runs", "seconds to resume")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the driver of a search.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--drive", type=Path, help="search in this folder and print what it took")
    args = parser.parse_args()
    if args.drive:
        print(json.dumps(drive(args.drive)))
        return
    rows = [row_of(method, args.runs) for method in ("grid", "tpe")]
    rows.append(("goals", "20 ms", "", "flat", "2"))
    print(tabulate(rows, headers=HEADERS, tablefmt="pipe", disable_numparse=True))


def row_of(method: str, num_runs: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as temporary:
        few = driven(made(Path(temporary) / "few", method, FEW))
        folder = made(Path(temporary) / "many", method, num_runs)
        many = driven(folder)
        again = driven(folder)
    return (
        f"{num_runs} runs, {method}",
        f"{1000 * many['cpu'] / num_runs:.1f} ms",
        format_bytes(many["memory"]),
        format_bytes(few["memory"]),
        f"{again['seconds']:.2f}",
    )


def made(folder: Path, method: str, num_runs: int) -> Path:
    """The folder of a search of so many runs, none of them begun."""
    folder.mkdir()
    write_json(folder / "params.json", BASE)
    values = {"values": [round(0.1 + 0.8 * number / num_runs, 6) for number in range(num_runs)]}
    ranges = {"min": 0.1, "max": 0.9}
    space = {"grid": {}, "tpe": {"run_cap": num_runs}}[method]
    write_json(folder / "search.json", space | {"method": method, "parameters": {"alpha": ranges if space else values}})
    return folder


def driven(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.search", "--drive", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    taken: dict[str, Any] = json.loads(done.stdout)
    return taken


def drive(folder: Path) -> dict[str, float]:
    """Search, and tell the seconds until the end, those of this process's CPU, and the most memory that it held."""
    command = [sys.executable, "-IS", str(TRAIN), "--events", os.devnull]
    start = time.perf_counter()
    assert search(folder, command=command, make_engine=partial(LocalExecutor.for_runs, device="cpu")) == 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * unit,
    }


if __name__ == "__main__":
    main()
