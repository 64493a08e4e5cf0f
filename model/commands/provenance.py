"""Where results come from: process, machine, versions, memory."""

from __future__ import annotations

import functools
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..build.experiment import Experiment
from ..home import CHECKOUT, ROOT


def provenance(experiment: Experiment) -> dict[str, Any]:
    """Process, machine, versions and start of a run, for run.json."""
    device = experiment.runtime.device
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [argument.removeprefix(f"{ROOT}{os.sep}") for argument in sys.argv],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "processes": experiment.runtime.world.size,
        "threads": torch.get_num_threads(),
        "precision": str(experiment.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "git_commit": _git_commit(),
    }


def process_seconds() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # no Linux
        return 0.0


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's where it has memory of its own, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache  # that of the code which this process runs, whatever happens to the files meanwhile
def _git_commit() -> str | None:
    if CHECKOUT is None:
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
