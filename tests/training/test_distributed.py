"""Three processes that train one network, and what they agree on; a world of one is no world at all."""

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
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what three processes did, run by run, and of what they found, rank by rank."""
    path = tmp_path_factory.mktemp("three")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={SIZE}",
        "-m",
        distributed_worker.__name__,
    ]
    done = subprocess.run(
        [sys.executable, *command, str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same runs in one process."""
    path = tmp_path_factory.mktemp("one")
    for name in distributed_worker.RUNS:
        distributed_worker.train(path / name)
    return path


@pytest.fixture(scope="module")
def findings(three: Path) -> list[dict[str, Any]]:
    return [json.loads((three / f"{rank}.json").read_text()) for rank in range(SIZE)]


# Training -----------------------------------------------------------------------------------------------------------


def tensors(path: Path, part: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(Folder(path).checkpoint("last"))[part]
    return state


@pytest.mark.parametrize("run", distributed_worker.RUNS)
@pytest.mark.parametrize("part", ["state_dict", "objective"])
def test_three_processes_come_to_the_weights_of_one(
    part: str, run: str, one: Path, three: Path, tmp_path: Path
) -> None:
    trainer = distributed_worker.trainer_of(tmp_path / run)
    before = {"state_dict": trainer.student.state_dict(), "objective": trainer.objective.state_dict()}[part]
    alone, shared = tensors(one / run, part), tensors(three / run, part)
    assert alone.keys() == shared.keys() == before.keys()
    for name, tensor in alone.items():
        start = before[name].double()
        # What is NaN until the first batch has moved by all that it holds: its rounding is relative to its size.
        moved = (tensor.double() - start.where(~start.isnan(), 0)).abs().max()
        difference = (tensor.double() - shared[name].double()).abs().max()
        # However little a value moves, each step rounds it by its size.
        rounding = max(1e-7, torch.finfo(torch.float32).eps * tensor.double().abs().max())
        assert difference <= 1e-4 * moved + rounding, f"{name}: {difference:.2e}, moved by {moved:.2e}"


def test_every_term_moves_what_it_owns(one: Path, tmp_path: Path) -> None:
    before, after = (
        distributed_worker.trainer_of(tmp_path).objective.state_dict(),
        tensors(one / "one_view", "objective"),
    )
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name.split(".")[1] for name in before}
    assert moved >= {"vid", "cc_linear", "crd", "ofd", "semckd", "srd"}


def test_layer_that_no_term_reaches_stays_as_it_was(three: Path, tmp_path: Path) -> None:
    before = distributed_worker.trainer_of(tmp_path).student.state_dict()
    assert torch.equal(before["idle.weight"], tensors(three / "one_view", "state_dict")["idle.weight"])


@pytest.mark.parametrize("run", distributed_worker.RUNS)
def test_metrics_are_those_of_one_process(run: str, one: Path, three: Path) -> None:
    def rows(path: Path) -> list[dict[str, float]]:
        return [
            {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
            for row in Folder(path).read_history()
        ]

    assert len(rows(three / run)) == 2
    for shared, alone in zip(rows(three / run), rows(one / run), strict=True):
        assert shared == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_validation_is_that_of_one_process(one: Path, three: Path) -> None:
    shared, alone = (read_json(Folder(path / "one_view").metrics("val", "last")) for path in (three, one))
    assert shared["num_samples"] == 20
    assert shared == pytest.approx(alone, rel=1e-5)


def test_every_loss_that_reads_the_global_batch_is_among_them() -> None:
    reading = {name for name in LOSSES.names() if LOSSES[name]().global_batch}
    assert reading <= distributed_worker.TERMS.keys()
    assert len(reading) >= 12


# Agreeing -----------------------------------------------------------------------------------------------------------


def test_rows_are_gathered_in_the_order_of_the_batch(findings: list[dict[str, Any]]) -> None:
    assert all(found["gathered"] == [[number, -number] for number in range(11)] for found in findings)


def test_evaluation_is_gathered_in_the_order_of_the_data_set(findings: list[dict[str, Any]]) -> None:
    assert all(found["evaluated"] == list(range(30)) for found in findings)


def test_sums_are_over_all_processes(findings: list[dict[str, Any]]) -> None:
    assert all(found["summed"] == [3.0, 3.0] for found in findings)


def test_flag_of_one_is_that_of_all(findings: list[dict[str, Any]]) -> None:
    assert all(found["any"] == [True, False, True] for found in findings)


def test_first_speaks_for_all(findings: list[dict[str, Any]]) -> None:
    assert [found["first"] for found in findings] == ["said by 0"] * 3
    assert [found["each"] for found in findings] == ["said by 0", "said by 1", "said by 2"]


def test_failure_of_one_is_that_of_all(findings: list[dict[str, Any]]) -> None:
    assert [found["user error"] for found in findings] == [["UserError", "only there"]] * 3
    assert [found["bug"] for found in findings] == [["RunFailed", "'broken'"]] * 2 + [["KeyError", "'broken'"]]
    division = "division by zero"
    failures = [found["failure of the first"] for found in findings]
    assert failures == [["ZeroDivisionError", division]] + [["RunFailed", division]] * 2


def test_statistics_are_averaged_and_counts_are_not(findings: list[dict[str, Any]]) -> None:
    assert all(found["averaged"] == [[1.0, 10.0], 0] for found in findings)


# Shares -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [5, 6, 14])
def test_shares_make_up_the_batch(images: int, size: int) -> None:
    rows = torch.arange(100)
    shares = [rows[Shard(rank, size).slice_of(20, 20 + images)] for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(20, 20 + images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(share) for share in shares] == [len(Shard(rank, size).of(rows[:images])) for rank in range(size)]


# One process --------------------------------------------------------------------------------------------------------


def test_world_of_one_hands_back_what_it_is_given() -> None:
    rows, net = torch.ones(3), torch.nn.BatchNorm1d(2)
    assert SINGLE_PROCESS.all_gather(rows, 3) is rows
    assert SINGLE_PROCESS.all_reduce_sum(rows) is rows
    assert SINGLE_PROCESS.convert_sync_batchnorm(net) is net
    assert SINGLE_PROCESS.for_device(torch.device("cuda")) is SINGLE_PROCESS
    assert SINGLE_PROCESS.any_rank(True, False) == (True, False)


def test_what_fails_in_a_world_of_one_fails_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        World().on_rank_zero(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        World().on_all_ranks(lambda: 1 / 0)
