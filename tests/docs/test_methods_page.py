"""docs/methods.md agrees with the code."""

from __future__ import annotations

import inspect
import re

import pytest

from model.docs.methods_page import PAGE, count_added
from model.registry import LOSSES


def test_the_page_is_up_to_date() -> None:
    assert PAGE.is_up_to_date(), "the code has changed: run make docs"


def test_page_marks_the_losses_that_are_given_the_global_batch() -> None:
    names_and_batches = re.findall(r"^\| \[(\w+)\].* \| (global|shard) \|", PAGE.new_text(), flags=re.M)
    reading = {name for name in LOSSES.names() if LOSSES[name]().global_batch}
    assert dict(names_and_batches) == {name: "global" if name in reading else "shard" for name in LOSSES.names()}
    assert len(reading) >= 12


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_names_its_paper(name: str) -> None:
    assert "https://" in (inspect.getdoc(inspect.getmodule(LOSSES[name])) or "")


@pytest.mark.parametrize(
    ("name", "num_parameters", "num_buffers"),
    [
        ("kd", 0, 0),
        ("ctkd", 1, 0),
        ("fitnet", (128 * 128 + 128) + 2 * 128, 2 * 128 + 1),  # 1x1 convolution, batch norm; its statistics and count
        ("crd", 2 * (256 * 128 + 128), 2 * (50_000 * 128 + 1)),  # projections; banks and their Z
    ],
)
def test_parameters_and_buffers_of_a_term_are_counted(name: str, num_parameters: int, num_buffers: int) -> None:
    assert count_added(name) == (num_parameters, num_buffers)
