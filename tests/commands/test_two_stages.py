"""Shipped methods of two stages: an experiment whose `init` is the weights of another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.build.weights import weights_digest
from model.config.folder import Folder
from model.training.checkpoint import load_checkpoint
from tests.conftest import Call
from tests.small_experiments import SmallExperiments, train_folder


def train_both(method: str, small_experiments: SmallExperiments, call: Call) -> tuple[Folder, Folder]:
    """The folders of both stages, trained by the command for the second one."""
    second = train_folder(small_experiments.copy(f"two_stages/{method}/second"), call)
    return Folder(small_experiments.root / f"two_stages_{method}_first"), second


def last_checkpoint(folder: Folder, part: str) -> dict[str, Any]:
    content: dict[str, Any] = load_checkpoint(folder.checkpoint("last"))[part]
    return content


@pytest.mark.parametrize("method", ["ab", "fsp", "ft"])
def test_second_stage_starts_from_the_weights_of_the_first_which_is_trained_before_it(
    method: str, small_experiments: SmallExperiments, call: Call
) -> None:
    first, second = train_both(method, small_experiments, call)
    assert (first.state(), second.state()) == ("finished", "finished")
    assert second.read_run()["init"] == {first.name: weights_digest(last_checkpoint(first, "state_dict"))}
    assert first.read_history()[0][f"loss_{method}"] > 0
    assert second.read_history()[0]["loss_ce"] > 0


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_second_stage_that_learns_from_labels_alone_has_no_teacher(
    method: str, small_experiments: SmallExperiments, call: Call
) -> None:
    first, second = train_both(method, small_experiments, call)
    assert "teacher" in first.read_run()
    assert "teacher" not in second.read_run()


def test_paraphraser_is_frozen_in_the_second_stage(small_experiments: SmallExperiments, call: Call) -> None:
    first, second = (last_checkpoint(folder, "objective") for folder in train_both("ft", small_experiments, call))
    moved = {name.split(".")[2] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"translators"}
