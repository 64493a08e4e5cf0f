"""Runs as sub-processes of this machine, each with its share of the cores and one GPU where there are some."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from model.search.engine import Handle, Job
from utils import UserError

# Runs end with the driver. On other systems they go on without it, and the next call waits for them.
TIED = (sys.executable, "-IS", str(Path(__file__).with_name("tied.py"))) if sys.platform == "linux" else ()
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class LocalEngine:
    """Sub-processes in slots.

    Args:
        slots: What each job that runs at the same time gets: variables of its environment.
    """

    def __init__(self, slots: Sequence[dict[str, str]]) -> None:
        self.slots = tuple(slots)
        self._free = list(slots)
        self._running: dict[Handle, tuple[subprocess.Popen[bytes], dict[str, str]]] = {}

    @classmethod
    def for_runs(cls, num_runs: int, *, jobs: int | None = None, device: str = "auto") -> LocalEngine:
        """Slots for so many runs, never more of them than runs.

        Args:
            jobs: Runs at once; by default one a GPU, else one a core: two runs that share two cores by threads are
                several times slower than the same runs with one core each.
            device: As train.py's; "cpu" hides the GPUs from the runs.
        """
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs must be 1 or more, got {jobs}")
        gpus = [] if device == "cpu" else visible_gpus()
        at_once = jobs or len(gpus) or (1 if device == "cuda" else num_cores())  # 1: a GPU, but we cannot count them
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
    def threads(self) -> int:
        """How many each job has."""
        return int(self.slots[0]["OMP_NUM_THREADS"])

    def describe(self) -> str:
        gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in self.slots if slot.get("CUDA_VISIBLE_DEVICES")}
        on_gpus = f" on {len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else ""
        return f"{len(self.slots)} at once{on_gpus}, {self.threads} thread{'s' * (self.threads != 1)} each"

    def has_room(self) -> bool:
        return bool(self._free)

    def submit(self, job: Job) -> Handle:
        # A run is tied to the thread that started it, and the main thread ends last.
        assert threading.current_thread() is threading.main_thread()
        slot = self._free[0]
        tied = (*TIED, str(os.getpid())) if TIED else ()
        with job.log.open("ab") as output:
            process = subprocess.Popen(
                [*tied, *job.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | slot,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops its runs
            )
        del self._free[0]
        handle = Handle(str(process.pid))
        self._running[handle] = process, slot
        return handle

    def poll(self, handle: Handle) -> int | None:
        process, slot = self._running[handle]
        status = process.poll()
        if status is not None:
            del self._running[handle]
            self._free.append(slot)
        return status

    def stop(self, handle: Handle) -> None:
        # The run alone: its data-loading processes must live until it has finished its step and saved.
        self._running[handle][0].terminate()

    def kill(self, handle: Handle) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._running[handle][0].pid, signal.SIGKILL)


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
