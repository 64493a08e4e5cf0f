"""docs/params.md agrees with the code, and has every key, name and option."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from model.config.params import Params
from model.docs.docstrings import argument_texts
from model.docs.params_page import PAGE, bounds, natural_order, type_text
from model.docs.params_schema import params_schema
from model.registry import DATASETS, EXECUTORS, LOSSES, NETS, OPTIMIZERS, PRUNERS, SAMPLERS, SCHEDULES, Registry

TEXT = PAGE.path.read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    level = title.partition(" ")[0]
    _, _, rest = TEXT.partition(f"\n{title}\n")
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def row(text: str, name: str) -> list[str]:
    (cells,) = (cells for cells in rows(text) if f"`{name}`" in cells[0].split(", "))
    return cells


def test_the_page_is_up_to_date() -> None:
    assert PAGE.is_up_to_date(), "the code has changed: run make docs"


def test_the_example_is_a_valid_file() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)
    Draft202012Validator(params_schema()).validate(json.loads(example))


@pytest.mark.parametrize("key", Params.model_fields)
def test_every_key_has_a_row(key: str) -> None:
    assert [cells for cells in rows(section("## Keys")) if re.fullmatch(rf"\[?`{key}`(\]\(#.*\))?", cells[0])]


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("batch_size", ["integer ≥ 1", "`128`"]),
        ("description", ["string", '`""`']),
        ("teacher", ["string or list of strings or object or null", "`null`"]),
    ],
)
def test_a_row_has_type_default_and_meaning(key: str, cells: list[str]) -> None:
    assert row(section("## Keys"), key)[1:] == [*cells, argument_texts(Params)[key]]


@pytest.mark.parametrize(
    ("title", "registry"),
    [
        ("## Data sets", DATASETS),
        ("## Networks", NETS),
        ("## Optimizers", OPTIMIZERS),
        ("## Learning-rate schedules", SCHEDULES),
        ("### Samplers", SAMPLERS),
        ("### Pruners", PRUNERS),
        ("### Executors", EXECUTORS),
    ],
)
def test_every_registered_name_has_a_row(title: str, registry: Registry[Any]) -> None:
    names = [name for cells in rows(section(title)) for name in cells[0].split(", ")]
    expected = [*registry.names(), *(f"{prefix}/..." for prefix in registry.families())]
    assert {f"`{name}`" for name in expected} <= set(names)


def test_every_loss_links_to_its_method() -> None:
    cells = {cells[0] for cells in rows(section("## Loss terms"))}
    assert {f"[{name}](methods.md#{name})" for name in LOSSES.names()} <= cells


def test_options_are_listed_with_their_defaults() -> None:
    assert row(section("## Networks"), "cnn")[2] == "`num_channels = 32`, `dropout = 0.5`"
    assert row(section("## Learning-rate schedules"), "step")[2] == "`step_epochs` (required), `factor = 0.1`"


def test_common_options_are_listed_with_a_loss_where_their_defaults_differ() -> None:
    (cells,) = (cells for cells in rows(section("## Loss terms")) if cells[0].startswith("[dkd]"))
    assert "`warmup_epochs = 20.0`" in cells[2]
    assert "weight" not in cells[2]


def test_a_library_s_options_are_explained() -> None:
    assert row(section("### Options of timm/..."), "pretrained")[1:3] == ["boolean or string", "`false`"]


def test_internal_links_lead_to_headings() -> None:
    anchors = {f"#{title.lower().replace(' ', '-')}" for title in re.findall(r"^#+ (.*)", TEXT, flags=re.MULTILINE)}
    links = set(re.findall(r"\((#[^)]*)\)", TEXT))
    assert links
    assert links <= anchors


@pytest.mark.parametrize("page", sorted(set(re.findall(r"\(([\w.]+\.(?:md|json))", TEXT))))
def test_links_lead_to_pages(page: str) -> None:
    assert (PAGE.path.parent / page).exists()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 1}, "integer ≥ 1"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number > 0 or null"),
        ({"enum": ["best", "last"], "type": "string"}, '`"best"`, `"last"`'),
        ({"const": "auto", "type": "string"}, '`"auto"`'),
        ({"type": "array", "items": {"type": "integer"}}, "list of integers"),
        ({"type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [{"type": "number"}] * 2}, "list of 2 numbers"),
        ({}, "any value"),
    ],
)
def test_types_are_written_in_words(schema: dict[str, Any], text: str) -> None:
    assert type_text(schema) == text


def test_a_bound_that_nobody_reaches_is_left_out() -> None:
    assert bounds({"minimum": 0, "exclusiveMaximum": 2**63}) == ["≥ 0"]


def test_names_are_sorted_by_their_numbers() -> None:
    assert sorted(["vgg11", "resnet8x4", "vgg8", "resnet32"], key=natural_order) == [
        "resnet8x4",
        "resnet32",
        "vgg8",
        "vgg11",
    ]
