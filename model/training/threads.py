"""How many threads compute."""

from __future__ import annotations

import torch

from ..cpus import chosen_threads, usable_cpus


def limit_threads() -> None:
    """Compute with one thread per usable CPU at most; what the environment asks for has torch done already.

    torch itself counts the CPUs of the affinity, but not the quota of a container.
    """
    if chosen_threads() is None and torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())
