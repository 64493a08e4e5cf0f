"""What Ray adds: parts of GPUs, tasks that are scheduled and retried. On a real one of two nodes."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from model.errors import UserError
from model.search.executors.base import JobEnd
from model.search.executors.ray import RayExecutor, check_nodes
from tests.search.executors.clusters import CPUS, GPUS, PATIENCE, kill_and_wait
from tests.search.executors.test_executors import IGNORES_SIGTERM, SAVES_ON_SIGTERM, end_of, python, wait_for_log
from tests.search.fake_search import FakeSearch, is_alive, wait_until

pytestmark = pytest.mark.cluster
MakeRayExecutor = Callable[..., RayExecutor]


@pytest.fixture
def make(ray_cluster: Any, tmp_path: Path) -> MakeRayExecutor:
    return partial(RayExecutor.for_runs, search_dir=tmp_path, address=ray_cluster.address)


@pytest.fixture
def second_node(ray_cluster: Any) -> Iterator[Any]:
    """A node with four cores, the only one, which a test may kill and replace."""
    others = set(ray_cluster.worker_nodes)
    node = ray_cluster.add_node(num_cpus=4, num_gpus=0, object_store_memory=10**8)
    ray_cluster.wait_for_nodes()
    yield node
    for node in ray_cluster.worker_nodes - others:
        ray_cluster.remove_node(node, allow_graceful=False)
    wait_for_nodes(ray_cluster, 2)


def executor_program(address: str) -> str:
    return (
        "from functools import partial; from model.search.executors.ray import RayExecutor;"
        f"make_executor = partial(RayExecutor.for_runs, search_dir=parent, address={address!r}, gpus=0)"
    )


def on_ray(fake: FakeSearch, ray_cluster: Any, **options: Any) -> Any:
    return partial(RayExecutor.for_runs, search_dir=fake.folder, address=ray_cluster.address, gpus=0, **options)


def wait_for_nodes(ray_cluster: Any, count: int) -> None:
    """Until the cluster has noticed which nodes are gone."""
    import ray

    if ray.is_initialized():
        wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == count, PATIENCE)


def worker_pid(folder: Path) -> int:
    """The PID of the Ray worker that runs a folder's job."""
    wait_until(lambda: (folder / "node.json").exists(), PATIENCE)
    return int(json.loads((folder / "node.json").read_text())["process"])


# Resources of a run -------------------------------------------------------------------------------------------------


def test_by_default_as_many_runs_at_a_time_as_fit_with_a_gpu_each(make: MakeRayExecutor) -> None:
    executor = make(40)
    assert executor.max_jobs == 2 * GPUS
    assert executor.describe() == "4 at a time on 2 Ray nodes, 1 core and 1 GPU each"
    assert make(3).max_jobs == 3
    assert make(40, jobs=9).max_jobs == 9


def test_runs_on_the_cpu_share_the_cores(make: MakeRayExecutor) -> None:
    assert make(40, device="cpu").max_jobs == 2 * CPUS
    assert make(40, gpus=0, cpus=2).max_jobs == 2


def test_a_run_that_shares_a_gpu_sees_that_one_alone(make: MakeRayExecutor, tmp_path: Path) -> None:
    executor = make(40, gpus=0.5, jobs=4)
    program = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    handles = [executor.submit(python(tmp_path / str(number), program)) for number in range(4)]
    for number in range(4):
        wait_for_log(tmp_path / str(number), "\n")
    gpus = {(tmp_path / str(number) / "stdout.log").read_text().strip() for number in range(4)}
    assert gpus <= {"0", "1"}
    for handle in handles:
        executor.kill(handle)
        end_of(executor, handle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 3.0}, "no node of the Ray cluster has 1 core and 3 GPUs for a run; they have 2 cores and 2 GPUs"),
        ({"cpus": 5, "gpus": 0}, "no node of the Ray cluster has 5 cores for a run; they have 2 cores and 2 GPUs"),
        ({"gpus": 1.5}, "must be a part of one GPU or a whole number, got 1.5"),
    ],
)
def test_resources_that_no_node_has_are_an_error_of_one_line(
    make: MakeRayExecutor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        make(3, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_node_that_does_not_see_the_folder_is_an_error_of_one_line(
    make: MakeRayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = make(1).ray
    check_nodes(ray, tmp_path)
    assert [*tmp_path.iterdir()] == []
    monkeypatch.setattr("model.search.executors.ray.write_text", lambda path, text: None)  # as if written elsewhere
    with pytest.raises(UserError, match=r"^Ray node .* cannot execute runs: FileNotFoundError: .*") as raised:
        check_nodes(ray, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_node_that_has_just_died_does_not_prevent_a_search(
    make: MakeRayExecutor, ray_cluster: Any, tmp_path: Path, second_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.search.executors.ray.CHECK_SECONDS", 5.0)
    ray = make(1).ray
    wait_for_nodes(ray_cluster, 3)
    before = ray.nodes()
    ray_cluster.remove_node(second_node, allow_graceful=False)
    monkeypatch.setattr(ray, "nodes", lambda: before)
    check_nodes(ray, tmp_path)


def test_a_missing_cluster_is_an_error_of_one_line(ray_cluster: Any) -> None:
    program = (
        "import sys; from model.search.executors.ray import connect; from model.cli import run_script;"
        "run_script(lambda: connect(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "127.0.0.1:1"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr == "error: no Ray cluster at 127.0.0.1:1; start one: ray start --head\n"


# Tasks that end or die ----------------------------------------------------------------------------------------------


def test_a_run_whose_worker_is_killed_saves_and_is_resumed(
    make: MakeRayExecutor, ray_cluster: Any, tmp_path: Path
) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=8, student={"seconds": 0.5})
    driver = fake.start(make_executor=executor_program(ray_cluster.address))
    wait_until(lambda: (fake.folder / "alpha_0.5" / "metrics.jsonl").exists(), PATIENCE)
    kill_and_wait(worker_pid(fake.folder / "alpha_0.5"))
    assert driver.communicate(timeout=PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    assert [event["event"] for event in fake.events()] == ["begin", "stop", "begin", "end"]
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_run_whose_node_dies_is_resumed_on_another(ray_cluster: Any, tmp_path: Path, second_node: Any) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.5]}, num_epochs=8, student={"seconds": 0.5})
    three_cores = executor_program(ray_cluster.address).replace("gpus=0", "gpus=0, cpus=3")
    driver = fake.start(make_executor=three_cores)
    wait_until(lambda: (fake.folder / "alpha_0.5" / "metrics.jsonl").exists(), PATIENCE)
    ray_cluster.remove_node(second_node, allow_graceful=False)
    ray_cluster.add_node(num_cpus=4, num_gpus=0, object_store_memory=10**8)
    assert driver.communicate(timeout=2 * PATIENCE)[1].endswith("1 of 1 runs are finished\n")
    assert [row["epoch"] for row in fake.history("alpha_0.5")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(fake.begun()) == 2


def test_runs_of_a_killed_driver_end_and_the_next_driver_resumes_them(ray_cluster: Any, tmp_path: Path) -> None:
    fake = FakeSearch(tmp_path, {"alpha": [0.1, 0.2]}, num_epochs=8, student={"seconds": 0.5})
    driver = fake.start(make_executor=executor_program(ray_cluster.address))
    wait_until(lambda: len(fake.events("begin")) == 2, PATIENCE)
    driver.kill()
    driver.communicate()
    assert fake.run(make_executor=on_ray(fake, ray_cluster)) == 0
    assert [[row["epoch"] for row in fake.history(run)] for run in fake.runs()] == [[*range(1, 9)]] * 2
    assert sorted(fake.begun()) == ["alpha_0.1", "alpha_0.1", "alpha_0.2", "alpha_0.2"]


def test_a_run_that_is_stopped_while_pending_never_begins(make: MakeRayExecutor, tmp_path: Path) -> None:
    executor = make(9, gpus=0, jobs=9, cpus=2)
    running = [executor.submit(python(tmp_path / str(number), SAVES_ON_SIGTERM)) for number in range(2)]
    for number in range(2):
        wait_for_log(tmp_path / str(number), "ready")
    pending = executor.submit(python(tmp_path / "pending", "print('begun')"))
    executor.stop(pending)
    assert end_of(executor, pending) == JobEnd(-signal.SIGTERM)
    for handle in running:
        executor.stop(handle)
        assert end_of(executor, handle) == JobEnd(75)
    assert not (tmp_path / "pending" / "stdout.log").exists()


def test_a_killed_run_does_not_outlive_its_worker(make: MakeRayExecutor, tmp_path: Path) -> None:
    executor = make(1, gpus=0)
    program = "import os; print(os.getpid(), flush=True); " + IGNORES_SIGTERM
    handle = executor.submit(python(tmp_path, program))
    wait_for_log(tmp_path, "ready")
    pid = int((tmp_path / "stdout.log").read_text().split()[0])
    executor.kill(handle)
    assert end_of(executor, handle) == JobEnd(-signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), PATIENCE)


def test_a_run_that_kills_every_worker_has_failed(make: MakeRayExecutor, tmp_path: Path) -> None:
    executor = make(1, gpus=0)
    program = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    status, error = end_of(executor, executor.submit(python(tmp_path, program)))
    assert status == 1
    assert error is not None
    assert error.startswith("Ray task failed: ")
    assert "\n" not in error


def test_connect_restores_the_handler_of_sigterm(make: MakeRayExecutor) -> None:
    before = signal.getsignal(signal.SIGTERM)
    make(1)
    assert signal.getsignal(signal.SIGTERM) == before
