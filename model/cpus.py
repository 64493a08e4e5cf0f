"""The CPUs that this process may use, and the environment that tells libraries how many threads to compute with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# How often a thread looks for work before it sleeps. With libgomp's own 300,000, threads that wait for one which has no
# CPU keep the CPU that it needs (docs/benchmarks.md).
SPIN_COUNT = "10000"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cpus() -> int:
    """The CPUs of this process's affinity, or the whole ones of its cgroups' quota where those are fewer."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(cpus, cpu_quota())))


def cpu_quota(process: Path = Path("/proc/self")) -> float:
    """CPUs that the strictest of the nested cgroups grants to a process, as of a container; infinite without a quota.

    Args:
        process: The process's folder in /proc.
    """
    return min(map(_quota_of, _cgroup_folders(process)), default=math.inf)


def _cgroup_folders(process: Path) -> Iterator[Path]:
    """The folders of the process's cgroups that limit CPU time, of both versions, with those above them.

    In a container, the path of a cgroup may be the host's, of which nothing is mounted but the container's own.
    """
    try:
        cgroups = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.partition(" - ") for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:  # no Linux
        return
    paths = {controller: path for _, controllers, path in cgroups for controller in controllers.split(",")}
    for location, _, file_system in mounts:
        kind, _, options = file_system.split(" ")[:3]
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller is None or (controller and controller not in options.split(",")):
            continue
        root, mount_point = location.split(" ")[3:5]
        path = PurePosixPath(paths.get(controller, "/"))
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        folder = Path(mount_point) / below
        yield folder
        yield from list(folder.parents)[: len(below.parts)]


def _quota_of(cgroup: Path) -> float:
    with suppress(OSError, ValueError):  # version 2; no such file, or the quota is "max"
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((cgroup / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf


def chosen_threads() -> int | None:
    """The number of threads that the environment asks for; None where it leaves that to the libraries."""
    for name in THREAD_VARIABLES:
        with suppress(ValueError):
            if (number := int(os.environ.get(name, "").partition(",")[0])) > 0:
                return number
    return None


def thread_environment(threads: int) -> dict[str, str]:
    """The environment variables that have torch compute with a number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def prepare_threads(threads: int | None = None) -> None:
    """Set what torch's OpenMP library reads from the environment; to be called before torch is imported.

    Args:
        threads: Number of threads that compute; None leaves it to the environment, then to `limit_threads`.
    """
    if (threads := threads or chosen_threads()) is not None:
        os.environ.update(thread_environment(threads))  # torch would prefer MKL_NUM_THREADS to OMP_NUM_THREADS
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
