"""Training and collective operations in three processes give the results of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config.folder import Folder
from model.files import read_json
from model.home import ROOT
from model.registry import LOSSES
from model.training.checkpoint import load_checkpoint
from model.training.distributed import SINGLE_PROCESS, World
from model.types import Shard
from tests.training import distributed_worker

SIZE = 3


@pytest.fixture(scope="module")
def distributed_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of three processes and the results of each rank."""
    path = tmp_path_factory.mktemp("distributed")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={SIZE}",
        "-m",
        distributed_worker.__name__,
    ]
    completed = subprocess.run(
        [sys.executable, *command, str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return path


@pytest.fixture(scope="module")
def single_process_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same runs in one process."""
    path = tmp_path_factory.mktemp("single_process")
    for name in distributed_worker.RUNS:
        distributed_worker.train(path / name)
    return path


@pytest.fixture(scope="module")
def results(distributed_runs: Path) -> list[dict[str, Any]]:
    return [json.loads((distributed_runs / f"{rank}.json").read_text()) for rank in range(SIZE)]


# Training -----------------------------------------------------------------------------------------------------------


def tensors(path: Path, part: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(Folder(path).checkpoint("last"))[part]
    return state


@pytest.mark.parametrize("run", distributed_worker.RUNS)
@pytest.mark.parametrize("part", ["state_dict", "objective"])
def test_three_processes_reach_the_weights_of_one(
    part: str, run: str, single_process_runs: Path, distributed_runs: Path, tmp_path: Path
) -> None:
    trainer = distributed_worker.make_trainer(tmp_path / run)
    before = {"state_dict": trainer.student.state_dict(), "objective": trainer.objective.state_dict()}[part]
    single, distributed = tensors(single_process_runs / run, part), tensors(distributed_runs / run, part)
    assert single.keys() == distributed.keys() == before.keys()
    for name, tensor in single.items():
        start = before[name].double()
        # A value that is NaN until the first batch has moved by its whole size, so its rounding is relative to that.
        moved = (tensor.double() - start.where(~start.isnan(), 0)).abs().max()
        difference = (tensor.double() - distributed[name].double()).abs().max()
        # Each step rounds a value relative to its size, however little it moves.
        rounding = max(1e-7, torch.finfo(torch.float32).eps * tensor.double().abs().max())
        assert difference <= 1e-4 * moved + rounding, f"{name}: {difference:.2e}, moved by {moved:.2e}"


def test_parameters_and_buffers_of_every_term_are_updated(single_process_runs: Path, tmp_path: Path) -> None:
    before, after = (
        distributed_worker.make_trainer(tmp_path).objective.state_dict(),
        tensors(single_process_runs / "one_view", "objective"),
    )
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name.split(".")[1] for name in before}
    assert moved >= {"vid", "cc_linear", "crd", "ofd", "semckd", "srd"}


def test_layer_without_a_gradient_is_not_changed(distributed_runs: Path, tmp_path: Path) -> None:
    before = distributed_worker.make_trainer(tmp_path).student.state_dict()
    assert torch.equal(before["idle.weight"], tensors(distributed_runs / "one_view", "state_dict")["idle.weight"])


@pytest.mark.parametrize("run", distributed_worker.RUNS)
def test_metrics_equal_those_of_one_process(run: str, single_process_runs: Path, distributed_runs: Path) -> None:
    def rows(path: Path) -> list[dict[str, float]]:
        return [
            {
                name: value
                for name, value in row.items()  # gradient norms are measured in runs of one process only
                if name not in ("seconds", "images_per_second") and not name.startswith("gradient_norm_")
            }
            for row in Folder(path).read_history()
        ]

    assert len(rows(distributed_runs / run)) == 2
    for distributed, single in zip(rows(distributed_runs / run), rows(single_process_runs / run), strict=True):
        assert distributed == pytest.approx(single, rel=1e-5, abs=1e-6)


def test_validation_equals_that_of_one_process(single_process_runs: Path, distributed_runs: Path) -> None:
    distributed, single = (
        read_json(Folder(path / "one_view").metrics("val", "last")) for path in (distributed_runs, single_process_runs)
    )
    assert distributed["num_samples"] == 20
    assert distributed == pytest.approx(single, rel=1e-5)


def test_every_loss_that_reads_the_global_batch_is_among_them() -> None:
    reading = {name for name in LOSSES.names() if LOSSES[name]().global_batch}
    assert reading <= distributed_worker.TERMS.keys()
    assert len(reading) >= 12


# Collective operations ----------------------------------------------------------------------------------------------


def test_all_gather_keeps_the_order_of_the_batch(results: list[dict[str, Any]]) -> None:
    assert all(result["all_gather"] == [[number, -number] for number in range(11)] for result in results)


def test_evaluation_is_gathered_in_the_order_of_the_data_set(results: list[dict[str, Any]]) -> None:
    assert all(result["evaluation"] == list(range(30)) for result in results)


def test_all_reduce_sums_over_all_ranks(results: list[dict[str, Any]]) -> None:
    assert all(result["all_reduce_sum"] == [3.0, 3.0] for result in results)


def test_any_rank_is_true_on_all_ranks_if_it_is_on_one(results: list[dict[str, Any]]) -> None:
    assert all(result["any_rank"] == [True, False, True] for result in results)


def test_on_rank_zero_returns_its_result_and_on_all_ranks_each_rank_s_own(results: list[dict[str, Any]]) -> None:
    assert [result["on_rank_zero"] for result in results] == ["from rank 0"] * 3
    assert [result["on_all_ranks"] for result in results] == ["from rank 0", "from rank 1", "from rank 2"]


def test_failure_on_one_rank_is_raised_on_all_ranks(results: list[dict[str, Any]]) -> None:
    assert [result["user error"] for result in results] == [["UserError", "only on rank 2"]] * 3
    assert [result["bug"] for result in results] == [["RunFailed", "'broken'"]] * 2 + [["KeyError", "'broken'"]]
    division = "division by zero"
    failures = [result["failure on rank zero"] for result in results]
    assert failures == [["ZeroDivisionError", division]] + [["RunFailed", division]] * 2


def test_sync_buffers_averages_statistics_but_not_counts(results: list[dict[str, Any]]) -> None:
    assert all(result["sync_buffers"] == [[1.0, 10.0], 0] for result in results)


# Shards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [5, 6, 14])
def test_shards_make_up_the_batch(images: int, size: int) -> None:
    rows = torch.arange(100)
    shards = [rows[Shard(rank, size).slice_of(20, 20 + images)] for rank in range(size)]
    assert sorted(torch.cat(shards).tolist()) == list(range(20, 20 + images))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert [len(shard) for shard in shards] == [len(Shard(rank, size).of(rows[:images])) for rank in range(size)]


# One process --------------------------------------------------------------------------------------------------------


def test_collective_operations_of_one_process_return_their_argument() -> None:
    rows, net = torch.ones(3), torch.nn.BatchNorm1d(2)
    assert SINGLE_PROCESS.all_gather(rows, 3) is rows
    assert SINGLE_PROCESS.all_reduce_sum(rows) is rows
    assert SINGLE_PROCESS.convert_sync_batchnorm(net) is net
    assert SINGLE_PROCESS.for_device(torch.device("cuda")) is SINGLE_PROCESS
    assert SINGLE_PROCESS.any_rank(True, False) == (True, False)


def test_failure_in_one_process_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        World().on_rank_zero(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        World().on_all_ranks(lambda: 1 / 0)
