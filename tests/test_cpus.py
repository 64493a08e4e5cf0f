"""CPUs and threads: affinity, quotas of cgroups, the environment."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import evaluate
import train
from model.cpus import THREAD_VARIABLES, chosen_threads, cpu_quota, prepare_threads, usable_cpus
from model.home import ROOT
from model.training.threads import limit_threads
from tests.conftest import Call

V2 = "31 28 0:27 {root} {mount} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 28 0:28 {root} {mount} rw,relatime - cgroup cgroup rw,cpu,cpuacct"


class Host:
    """/proc/self and the cgroup file systems of a machine."""

    def __init__(self, path: Path, mount: str, *, cgroup: str, root: str = "/") -> None:
        self.process, self.mount = path / "proc", path / "cgroup"
        self.process.mkdir()
        (self.process / "cgroup").write_text(f"{cgroup}\n")
        other = f"33 28 0:29 / {path}/memory rw - cgroup cgroup rw,memory"
        (self.process / "mountinfo").write_text(f"{other}\n{mount.format(root=root, mount=self.mount)}\n")

    def write(self, folder: str, **files: str) -> None:
        (self.mount / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (self.mount / folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_quota_of_version_2_is_that_of_the_strictest_group(tmp_path: Path) -> None:
    host = Host(tmp_path, V2, cgroup="0::/system/box/inner")
    host.write("system", cpu__max="max 100000")
    host.write("system/box", cpu__max="150000 50000")
    host.write("system/box/inner", cpu__max="400000 100000")
    assert cpu_quota(host.process) == 3


def test_the_quota_of_version_1_is_that_of_the_strictest_group(tmp_path: Path) -> None:
    host = Host(tmp_path, V1, cgroup="5:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n0::/ignored")
    host.write("", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    host.write("docker", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    host.write("docker/abc", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cpu_quota(host.process) == 2.5


def test_a_container_that_sees_its_own_group_alone_reads_its_quota_there(tmp_path: Path) -> None:
    host = Host(tmp_path, V1, cgroup="4:cpu,cpuacct:/docker/abc", root="/docker/abc")
    host.write("", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert cpu_quota(host.process) == 2


def test_a_group_that_is_not_mounted_counts_as_the_root_of_what_is(tmp_path: Path) -> None:
    host = Host(tmp_path, V2, cgroup="0::/../other", root="/docker/abc")
    host.write("", cpu__max="200000 100000")
    assert cpu_quota(host.process) == 2


def test_without_a_quota_or_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    host = Host(tmp_path, V2, cgroup="0::/")
    host.write("", cpu__max="max 100000")
    assert cpu_quota(host.process) == cpu_quota(tmp_path / "no such process") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 3), (64.0, 3), (2.9, 2), (0.5, 1)])
def test_usable_cpus_are_those_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr("model.cpus.cpu_quota", lambda: quota)
    assert usable_cpus() == expected


@pytest.mark.parametrize(
    ("omp", "mkl", "expected"), [("3", None, 3), ("3,2", "4", 3), (None, "4", 4), ("", None, None), ("all", None, None)]
)
def test_threads_are_chosen_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, omp: str | None, mkl: str | None, expected: int | None
) -> None:
    for name, value in zip(THREAD_VARIABLES, (omp, mkl), strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert chosen_threads() == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_how_long_threads_spin_is_left_to_those_who_set_it(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(own))
    prepare_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


THREADS = """
import sys
from model.cpus import prepare_threads
prepare_threads(*map(int, sys.argv[1:]))
import torch
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("variables", "threads"),
    [({"OMP_NUM_THREADS": "1"}, ()), ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}, ()), ({}, (1,))],
)
def test_torch_computes_with_the_threads_that_were_asked_for(variables: dict[str, str], threads: tuple[int]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES} | variables
    command = [sys.executable, "-c", THREADS, *map(str, threads)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("main", [train.main, evaluate.main])
@pytest.mark.parametrize(("options", "expected"), [(["--threads", "3"], 3), ([], None)])
def test_the_option_threads_comes_before_torch(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    call: Call,
    main: Callable[[], int],
    options: list[str],
    expected: int | None,
) -> None:
    prepared: list[int | None] = []
    monkeypatch.setattr("model.cli.prepare_threads", prepared.append)
    call(main, "--model_dir", tmp_path, *options)
    assert prepared == [expected]


def test_a_number_of_threads_below_one_is_refused(tmp_path: Path, call: Call) -> None:
    result = call(train.main, "--model_dir", tmp_path, "--threads", 0)
    assert result.status == 2
    assert "argument --threads: must be a whole number, 1 or more, got 0" in result.err


@pytest.mark.parametrize(("asked", "quota", "expected"), [({}, 2, 2), ({}, 8, 4), ({"OMP_NUM_THREADS": "4"}, 2, 4)])
def test_threads_are_no_more_than_the_usable_cpus_unless_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], quota: int, expected: int
) -> None:
    threads = [4]  # what torch starts with
    monkeypatch.setattr(os, "environ", asked)
    monkeypatch.setattr("model.training.threads.usable_cpus", lambda: quota)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads[-1])
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    limit_threads()
    assert threads[-1] == expected
