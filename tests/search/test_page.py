"""The page on searching: every search.json on it can be loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from model.home import ROOT
from model.registry import PRUNERS, SAMPLERS
from model.search.space.points import grid_points
from model.search.space.search_file import load_space
from tests.search.fake_search import BASE, write

PAGE = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)]
PARAMS = BASE | {
    "student": {"name": "cnn", "num_channels": 32, "dropout": 0.5},
    "optimizer": {"name": "adam", "learning_rate": 0.001},
}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_search_on_the_page_can_be_loaded(tmp_path: Path, number: int) -> None:
    write(tmp_path / "search.json", EXAMPLES[number])
    assert load_space(tmp_path, PARAMS).varied


def test_the_page_has_examples_and_every_sampler_and_pruner() -> None:
    assert len(EXAMPLES) >= 5
    for name in (*SAMPLERS.names(), *PRUNERS.names()):
        assert f"`{name}`" in PAGE


def test_the_grid_of_choices_has_the_folders_that_the_page_lists(tmp_path: Path) -> None:
    [example] = [search for search in EXAMPLES if "method" in search["parameters"]]
    write(tmp_path / "search.json", example)
    names = [point.name for point in grid_points(load_space(tmp_path, PARAMS))]
    assert len([name for name in names if "alone" in name]) == 2
    assert len([name for name in names if "hinton" in name]) == 8
    assert "method_hinton_alpha_0.9_temperature_4_batch_size_64" in names
