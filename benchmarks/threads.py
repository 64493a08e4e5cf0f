"""How threads wait for one another: settings of libgomp, side by side, alone and beside a busy process.

    python -m benchmarks.threads

Each setting is a process of its own, as libgomp reads the environment when it is loaded. All of them are timed in turn
for several rounds, first alone, then beside a process that keeps one CPU busy; ratios are taken within a round.
`python -m benchmarks.threads NETWORK` is such a process.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tabulate import tabulate

from benchmarks import REPOSITORY
from model.cpus import usable_cpus

NETWORKS = ("cnn", "wrn_16_2")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SETTINGS: dict[str, dict[str, str]] = {
    "libgomp's default": {},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (0, 1_000, 10_000, 100_000)},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"},
    "1 thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare libgomp's settings, alone and beside a busy process.")
    parser.add_argument("network", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="times that every setting is timed (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each timing (default: 3)")
    args = parser.parse_args()
    if args.network:
        serve(args.network)
        return
    print(f"{usable_cpus()} CPUs, load average before: {os.getloadavg()[0]:.2f}\n")
    for network in NETWORKS:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(network, setting)) for name, setting in SETTINGS.items()}
            alone = measure(workers, args.rounds, args.seconds)
            busy = subprocess.Popen([sys.executable, "-c", BUSY])
            try:
                beside = measure(workers, args.rounds, args.seconds)
            finally:
                busy.kill()
                busy.wait()
        print_table(network, alone, beside)


class Worker:
    """A process that trains a network with one setting while it is told to, and is stopped in between.

    Otherwise its threads would go on spinning, OMP_WAIT_POLICY=active's for ever, beside those that are timed.
    """

    def __init__(self, network: str, setting: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.threads", network],
            cwd=REPOSITORY,
            env=environment | setting,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def images_per_second(self, seconds: float) -> float:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        speed = float(self._answer())
        self._process.send_signal(signal.SIGSTOP)
        return speed

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return str(self._process.stdout.readline())


def serve(network: str) -> None:
    """Take training steps for as many seconds as each line of stdin says, and print images a second."""
    import torch

    from benchmarks.loops import BATCH_SIZE, BenchmarkRuns, training_loop
    from model.build.runtime import Runtime
    from model.home import ROOT

    with tempfile.TemporaryDirectory() as temporary:
        runtime = Runtime(device=torch.device("cpu"), data_dir=ROOT / "data")
        step = training_loop(BenchmarkRuns(Path(temporary), runtime).trainer(network))
        step()
        print("ready", flush=True)
        for line in sys.stdin:
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < float(line):
                step()
                count += 1
            print(count * BATCH_SIZE / (time.perf_counter() - start), flush=True)


def measure(workers: Mapping[str, Worker], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of every setting in every round."""
    speeds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            speeds[name].append(worker.images_per_second(seconds))
    return speeds


def print_table(network: str, alone: Mapping[str, list[float]], beside: Mapping[str, list[float]]) -> None:
    """Medians, and medians of the ratios to the default of the same round."""
    default = next(iter(SETTINGS))
    rows = []
    for name in SETTINGS:
        row = [name]
        for speeds in (alone, beside):
            ratios = [one / other for one, other in zip(speeds[name], speeds[default], strict=True)]
            row += [f"{statistics.median(speeds[name]):,.0f}", f"{statistics.median(ratios):.2f}"]
        rows.append(row)
    headers = (network, "alone, images/s", "ratio", "beside a busy process", "ratio")
    print(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
