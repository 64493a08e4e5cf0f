"""Runs as subprocesses of this machine, each with its share of the cores and one GPU where there are some."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...cpus import chosen_threads, thread_environment, usable_cpus
from ...errors import UserError
from ...registry import EXECUTORS
from .base import Job, JobEnd, JobHandle
from .options import ExecutorOption, positive_int
from .process import Process


@EXECUTORS.register("local")
class LocalExecutor:
    """Subprocesses, one per slot.

    Args:
        slots: The environment variables of each job that runs at the same time.
    """

    OPTIONS = (
        ExecutorOption("jobs", positive_int, "runs at a time (default: one per GPU, else one per core)", "N"),
        ExecutorOption("runs_per_gpu", positive_int, "runs that share a GPU", "N"),
        ExecutorOption("threads", positive_int, "CPU threads per run (default: OMP_NUM_THREADS, else its cores)", "N"),
    )

    def __init__(self, slots: Sequence[dict[str, str]]) -> None:
        self.slots = tuple(slots)
        self._free_slots = list(slots)
        self._running: dict[JobHandle, tuple[Process, dict[str, str]]] = {}

    @classmethod
    def for_runs(
        cls,
        num_runs: int,
        *,
        search_dir: Path | None = None,
        device: str = "auto",
        jobs: int | None = None,
        runs_per_gpu: int | None = None,
        threads: int | None = None,
    ) -> LocalExecutor:
        """Slots for a number of runs, at most one per run.

        Args:
            search_dir: Not used.
            device: As of train.py; "cpu" hides the GPUs from the runs.
            jobs: Runs at a time; by default as many as share the GPUs, else one per core, or per `threads` cores: two
                runs that share two cores by threads are several times slower than the same runs with one core each.
            runs_per_gpu: The number of runs that share a GPU, at most; by default one, or what `jobs` leads to.
            threads: Of each run; by default what OMP_NUM_THREADS says, else its share of the cores.
        """
        gpus = [] if device == "cpu" else visible_gpus()
        if runs_per_gpu is not None and not gpus:
            raise UserError(f"--runs_per_gpu {runs_per_gpu}: no GPU is visible")
        num_on_gpus = len(gpus) * (runs_per_gpu or 1)
        num_cores, threads = usable_cpus(), threads or chosen_threads()
        # With "cuda" or "mps", but without GPUs that we can count, there is at least one.
        num_slots = jobs or num_on_gpus or (1 if device in ("cuda", "mps") else num_cores // (threads or 1))
        if runs_per_gpu is not None:
            num_slots = min(num_slots, num_on_gpus)
        num_slots = max(1, min(num_slots, num_runs))
        threads = threads or max(1, num_cores // num_slots)
        slots = [thread_environment(threads) for _ in range(num_slots)]
        for index, slot in enumerate(slots):
            if gpus:
                slot["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
            elif device == "cpu":
                slot["CUDA_VISIBLE_DEVICES"] = ""
        return cls(slots)

    @property
    def max_jobs(self) -> int:
        return len(self.slots)

    @property
    def threads_per_job(self) -> int:
        return int(self.slots[0]["OMP_NUM_THREADS"])

    def describe(self) -> str:
        gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in self.slots if slot.get("CUDA_VISIBLE_DEVICES")}
        on_gpus = f" on {len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else ""
        threads = f"{self.threads_per_job} thread{'s' * (self.threads_per_job != 1)}"
        return f"{self.max_jobs} at a time{on_gpus}, {threads} each"

    def can_submit(self) -> bool:
        return bool(self._free_slots)

    def submit(self, job: Job) -> JobHandle:
        process = Process(job, self._free_slots[0])
        handle = JobHandle(str(process.pid))
        self._running[handle] = process, self._free_slots.pop(0)
        return handle

    def attach(self, job: Job) -> JobHandle | None:
        return None  # runs end with their driver

    def poll(self, handle: JobHandle) -> JobEnd | None:
        process, slot = self._running[handle]
        end = process.poll()
        if end is not None:
            del self._running[handle]
            self._free_slots.append(slot)
        return end

    def stop(self, handle: JobHandle) -> None:
        self._running[handle][0].stop()

    def kill(self, handle: JobHandle) -> None:
        self._running[handle][0].kill()


def visible_gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, listed without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in listing.splitlines()))]
