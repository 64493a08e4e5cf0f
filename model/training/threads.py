"""How many threads compute, and what they share the CPUs with."""

from __future__ import annotations

import os

import torch

from ..cpus import chosen_threads, usable_cpus

FEWER_THREADS = "threads wait for one another then: --threads 1, or OMP_NUM_THREADS=1, is often faster"


def limit_threads() -> None:
    """Compute with one thread per usable CPU at most; what the environment asks for has torch done already.

    torch itself counts the CPUs of the affinity, but not the quota of a container.
    """
    if chosen_threads() is None and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())


def others_are_busy(own: int = 0) -> bool:
    """Whether processes beside the `own` threads would need more CPUs than there are."""
    return os.getloadavg()[0] + own > usable_cpus() + 0.5


def likely_cause_of_slowness() -> str:
    """Why a run may be slower than it was estimated to be, and what to do."""
    load = f"load average {os.getloadavg()[0]:.1f} on {usable_cpus()} CPUs"
    if not others_are_busy():
        return f"the CPUs are not overloaded ({load}), so the disk, or another process on the GPU, may be the cause"
    advice = FEWER_THREADS if torch.get_num_threads() > 1 else "fewer processes at a time are faster"
    return f"other processes seem to keep the CPUs busy ({load}); {advice}"
