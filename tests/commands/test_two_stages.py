"""Methods of two stages, as they are shipped: a folder that starts from the weights of another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.build.weights import weights_digest
from model.config.folder import Folder
from model.training.checkpoint import load_checkpoint
from tests.conftest import Call
from tests.small_experiments import Workshop, trained


def stages(method: str, workshop: Workshop, call: Call) -> tuple[Folder, Folder]:
    """Both, trained by the command for the second one."""
    second = trained(workshop.copy(f"two_stages/{method}/second"), call)
    return Folder(workshop.root / f"two_stages_{method}_first"), second


def last(folder: Folder, part: str) -> dict[str, Any]:
    found: dict[str, Any] = load_checkpoint(folder.checkpoint("last"))[part]
    return found


@pytest.mark.parametrize("method", ["ab", "fsp", "ft"])
def test_the_second_stage_starts_from_the_first_which_is_trained_before(
    method: str, workshop: Workshop, call: Call
) -> None:
    first, second = stages(method, workshop, call)
    assert (first.state(), second.state()) == ("finished", "finished")
    assert second.read_run()["init"] == {first.name: weights_digest(last(first, "state_dict"))}
    assert first.read_history()[0][f"loss_{method}"] > 0
    assert second.read_history()[0]["loss_ce"] > 0


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_labels_alone_need_no_teacher(method: str, workshop: Workshop, call: Call) -> None:
    first, second = stages(method, workshop, call)
    assert "teacher" in first.read_run()
    assert "teacher" not in second.read_run()


def test_the_paraphraser_stays_as_the_first_stage_left_it(workshop: Workshop, call: Call) -> None:
    first, second = (last(folder, "objective") for folder in stages("ft", workshop, call))
    moved = {name.split(".")[2] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"translators"}
