"""A real SLURM and a real Ray, of two nodes each, on this one machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.search.fake_search import wait_until

PATIENCE = 60.0  # seconds, for a machine that is busy
CPUS = GPUS = 2  # of a node; they need not exist

SLURM_CONF = """
ClusterName=retort
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=1-0 State=UP PriorityTier=1 GraceTime=3
PartitionName=urgent Nodes=ALL MaxTime=1-0 State=UP PriorityTier=2 PreemptMode=OFF
"""
SLURM_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Gres=gpu:{gpus}\n"


class SlurmCluster:
    """slurmctld and two slurmd, without accounting.

    Args:
        folder: For all their files.
    """

    NODES = ("n1", "n2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        host, ports = socket.gethostname().partition(".")[0], free_ports(1 + len(self.NODES))
        (self.folder / "state").mkdir()
        text = SLURM_CONF.format(host=host, port=ports[0], folder=self.folder)
        for name, port in zip(self.NODES, ports[1:], strict=True):
            (self.folder / f"spool-{name}").mkdir()
            text += SLURM_NODE.format(name=name, host=host, port=port, cpus=CPUS, gpus=GPUS)
        self.conf.write_text(text)
        for index in range(GPUS):  # SLURM requires character devices; these are like /dev/null
            os.mknod(self.folder / f"gpu{index}", 0o20666, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        os.environ["SLURM_CONF"] = str(self.conf)
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode != 0:
            self._start_munge()
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.NODES:
            self.start_node(name)
        wait_until(
            lambda: self.output("sinfo", "-h", "-N", "-p", "debug", "-t", "idle").count("\n") == len(self.NODES),
            PATIENCE,
        )

    def start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill a node's slurmd; the processes that it started go on."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def jobs(self) -> dict[str, str]:
        """ID of each job that is pending or running -> its state."""
        return dict(line.split() for line in self.output("squeue", "-h", "-o", "%i %T").splitlines())

    def start_now(self, job_id: str) -> None:
        """Start a requeued job without the delay of two minutes."""
        wait_until(lambda: self.jobs().get(job_id) == "PENDING", PATIENCE)
        time.sleep(1.1)  # SLURM counts in seconds, and refuses a node to a job that was taken off it in the same one
        self.output("scontrol", "update", f"JobId={job_id}", "StartTime=now")

    def output(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def clear(self) -> None:
        """Leave no job in the queue."""
        if jobs := self.jobs():
            self.output("scancel", *jobs)
            wait_until(lambda: not self.jobs(), PATIENCE)

    def stop(self) -> None:
        self.clear()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [shutil.which(command[0], path=PATH) or command[0], *command[1:]],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _start_munge(self) -> None:
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._start("munged", *as_munge, shutil.which("munged", path=PATH) or "munged", "--foreground")
        wait_until(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0, PATIENCE)


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing_for_slurm() -> str | None:
    """What this machine lacks for a SLURM of its own."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "setpriv") if shutil.which(name, path=PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "munged and fake GPUs need root"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A SLURM of two nodes."""
    pytest.importorskip("submitit", reason="no submitit: pip install -r requirements-engines.txt")
    if (missing := missing_for_slurm()) is not None:
        pytest.skip(missing)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", "")  # restored at the end
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A Ray of two nodes, each with two cores and two GPUs that do not exist."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        monkeypatch.setenv("RAY_health_check_initial_delay_ms", "0")  # a killed node is noticed within a second
        monkeypatch.setenv("RAY_health_check_period_ms", "300")
        pytest.importorskip("ray", reason="no Ray: pip install -r requirements-engines.txt")
        from ray.cluster_utils import Cluster

        node = {"num_cpus": CPUS, "num_gpus": GPUS, "object_store_memory": 10**8}
        cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        try:
            cluster.add_node(**node)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            import ray

            ray.shutdown()
            cluster.shutdown()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for socket_ in sockets:
        socket_.bind(("127.0.0.1", 0))
    ports = [int(socket_.getsockname()[1]) for socket_ in sockets]
    for socket_ in sockets:
        socket_.close()
    return ports


def kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)
