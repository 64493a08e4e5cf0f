"""Runs as sub-processes of this machine, each with its share of the cores and one GPU where there are some."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import UserError
from .base import Job, JobEnd, JobHandle
from .process import Process

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class LocalExecutor:
    """Sub-processes in slots.

    Args:
        slots: What each job that runs at the same time gets: variables of its environment.
    """

    def __init__(self, slots: Sequence[dict[str, str]]) -> None:
        self.slots = tuple(slots)
        self._free = list(slots)
        self._running: dict[JobHandle, tuple[Process, dict[str, str]]] = {}

    @classmethod
    def for_runs(
        cls, num_runs: int, *, jobs: int | None = None, device: str = "auto", runs_per_gpu: int | None = None
    ) -> LocalExecutor:
        """Slots for so many runs, never more of them than runs.

        Args:
            jobs: Runs at once; by default as many as share the GPUs, else one a core: two runs that share two cores by
                threads are several times slower than the same runs with one core each.
            device: As train.py's; "cpu" hides the GPUs from the runs.
            runs_per_gpu: How many runs share a GPU, at most; by default one, or as many as `jobs` asks for.
        """
        gpus = [] if device == "cpu" else visible_gpus()
        if runs_per_gpu is not None and not gpus:
            raise UserError(f"--runs_per_gpu {runs_per_gpu}: no GPU is visible")
        most = len(gpus) * (runs_per_gpu or 1)
        at_once = jobs or most or (1 if device == "cuda" else num_cores())  # 1: a GPU, but we cannot count them
        if runs_per_gpu is not None:
            at_once = min(at_once, most)
        num_slots = max(1, min(at_once, num_runs))
        threads = str(max(1, num_cores() // num_slots))
        slots = [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(num_slots)]
        for number, slot in enumerate(slots):
            if gpus:
                slot["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            elif device == "cpu":
                slot["CUDA_VISIBLE_DEVICES"] = ""
        return cls(slots)

    @property
    def at_once(self) -> int:
        return len(self.slots)

    @property
    def threads(self) -> int:
        return int(self.slots[0]["OMP_NUM_THREADS"])

    def describe(self) -> str:
        gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in self.slots if slot.get("CUDA_VISIBLE_DEVICES")}
        on_gpus = f" on {len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else ""
        return f"{self.at_once} at once{on_gpus}, {self.threads} thread{'s' * (self.threads != 1)} each"

    def has_room(self) -> bool:
        return bool(self._free)

    def submit(self, job: Job) -> JobHandle:
        process = Process(job, self._free[0])
        handle = JobHandle(str(process.number))
        self._running[handle] = process, self._free.pop(0)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None  # runs end with their driver

    def poll(self, handle: JobHandle) -> JobEnd | None:
        process, slot = self._running[handle]
        end = process.poll()
        if end is not None:
            del self._running[handle]
            self._free.append(slot)
        return end

    def stop(self, handle: JobHandle) -> None:
        self._running[handle][0].stop()

    def kill(self, handle: JobHandle) -> None:
        self._running[handle][0].kill()


def num_cores() -> int:
    """Cores that this process may use: its affinity's, or a container's quota where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or the quota is "max"
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def visible_gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, found without loading CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
