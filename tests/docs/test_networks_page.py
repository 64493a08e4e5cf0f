"""docs/networks.md lists every network, with its size as counted."""

from __future__ import annotations

import re

import pytest

from model.docs.networks_page import PAGE, origin
from model.registry import NETS

TEXT = PAGE.path.read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in TEXT.splitlines()
    if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
}


def test_the_table_is_up_to_date() -> None:
    assert PAGE.is_up_to_date(), "the code has changed: run make docs"


def test_every_network_is_in_the_table() -> None:
    assert set(ROWS) == set(NETS.names())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", ["278,324", "40.8 M", "3", "3 x 32 x 32, 100"]),
        ("vgg13", ["9,462,180", "284.9 M", "4", "3 x 32 x 32, 100"]),
        ("mobilenetv2", ["812,836", "6.5 M", "4", "3 x 32 x 32, 100"]),
        ("mlp_1200", ["2,395,210", "2.4 M", "0", "1 x 28 x 28, 10"]),
        ("resnet18_imagenet", ["11,689,512", "1,814.1 M", "4", "3 x 224 x 224, 1000"]),
    ],
)
def test_numbers_are_the_published_ones(name: str, expected: list[str]) -> None:
    assert ROWS[name][:4] == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("wrn", "[Wide Residual Networks](https://arxiv.org/abs/1605.07146)"),
        ("lenet", "Gradient-based learning applied to document recognition"),
        (
            "resnet_stem7",
            "[github.com/hankyul2/KnowledgeDistillation](https://github.com/hankyul2/KnowledgeDistillation)",
        ),
    ],
)
def test_the_origin_is_read_from_the_module_s_docstring(file: str, expected: str) -> None:
    assert origin(f"model.nets.{file}") == expected


def test_the_text_names_registered_networks_only() -> None:
    families = tuple(f"{family}/" for family in NETS.families())
    names = re.findall(r'"name": "([^"]+)"', TEXT)
    assert names
    assert all(name in NETS.names() or name.startswith(families) for name in names)
