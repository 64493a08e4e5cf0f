"""The reference of params.json, docs/params.md, made from the code.

    python -m model.docs.params_page      writes it

Keys, types, defaults and texts are those of the JSON Schema (params_schema.py), so that page and schema agree.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..registry import DATASETS, EXECUTORS, LOSSES, NETS, OPTIMIZERS, PRUNERS, SAMPLERS, SCHEDULES, Registry
from ..search import executors, sampling  # fills the registries
from .docstrings import argument_texts, module_summary, summary
from .pages import GeneratedPage, markdown_table
from .params_schema import Schema, options_schema, parameter_schemas, params_schema

Key = TypeVar("Key")

HEAD = """# params.json

Generated from the code by `make docs`. An experiment folder's `params.json` is one JSON object. Only `dataset` and
`student` are required:

```json
{
  "dataset": {"name": "cifar10", "val_size": 5000},
  "student": {"name": "cnn", "num_channels": 32},
  "teacher": "experiments/base_resnet18",
  "loss": {"kd": {"alpha": 0.9, "temperature": 4.0}}
}
```

`python train.py --model_dir DIR --dry_run` prints the values of all keys, and `params_resolved.json` in a run's folder
has them. [params.schema.json](params.schema.json) makes an editor complete and check the file. A dotted path such as
`loss.kd.temperature` names a value, in searches ([search.md](search.md)) and in tables; its last part is enough where
it is unique.
"""

COMPONENTS = """`dataset`, `student`, `optimizer` and `schedule` are objects: `name` selects one of the names below, and
every other key is one of its options. `loss` maps names of terms to their options. Options that are not given have the
defaults listed here; an unknown name or option is an error.
"""

SEARCH_HEAD = """## Searches

A folder that also has a `search.json` is a search ([search.md](search.md) describes the file).
"""


@dataclasses.dataclass(frozen=True)
class RegistrySection:
    """A section of the page: all that can be selected by name for one key of params.json.

    Args:
        text: Markdown below the heading.
        links_to: A page with a section for each name, which replaces the tables of options here.
        describe: Gives the one-line description of a function.
    """

    key: str
    title: str
    registry: Registry[Any]
    text: str = ""
    links_to: str | None = None
    describe: Callable[[Callable[..., Any]], str] = summary


SECTIONS = (
    RegistrySection("dataset", "Data sets", DATASETS),
    RegistrySection(
        "student",
        "Networks",
        NETS,
        "The number of classes and of input channels follow from the data set, and so does the image size where a\n"
        "network depends on it. [networks.md](networks.md) has each network's size and paper.",
    ),
    RegistrySection(
        "loss",
        "Loss terms",
        LOSSES,
        "The objective is the weighted sum of the terms. [methods.md](methods.md) has each term's paper, formula and\n"
        "options in full.",
        links_to="methods.md",
        describe=module_summary,
    ),
    RegistrySection("optimizer", "Optimizers", OPTIMIZERS),
    RegistrySection(
        "schedule", "Learning-rate schedules", SCHEDULES, "A schedule multiplies the optimizer's learning rate."
    ),
)


def page_text() -> str:
    properties: dict[str, Schema] = params_schema()["properties"]
    lines = [HEAD, "## Keys", "", *property_table("key", properties, link_sections=True), COMPONENTS]
    for key in ("teacher", "init", "early_stopping", "ema"):
        (as_object,) = (form for form in properties[key]["anyOf"] if form.get("type") == "object")
        lines += [f"### {key} as an object", "", *property_table("key", as_object["properties"])]
    for section in SECTIONS:
        lines += section_lines(section)
    return "\n".join([*lines, *search_lines()])


def property_table(head: str, properties: dict[str, Schema], *, link_sections: bool = False) -> list[str]:
    """A row per key or option: type, default, meaning."""
    anchors = {section.key: anchor(section.title) for section in SECTIONS} if link_sections else {}
    rows = []
    for name, schema in properties.items():
        cell = f"[`{name}`]({anchors[name]})" if name in anchors else f"`{name}`"
        rows.append((cell, type_text(schema), default_text(schema), schema.get("description", "")))
    return markdown_table((head, "type", "default", "meaning"), rows)


def section_lines(section: RegistrySection) -> Iterator[str]:
    registry = section.registry
    yield from (f"## {section.title}", "")
    if section.text:
        yield from (section.text, "")
    common = common_option_schemas(registry)
    if common:
        yield from ("Options of all of them:", "")
        yield from property_table("option", common)
    names = [*sorted(registry.names(), key=natural_order), *(f"{prefix}/..." for prefix in registry.families())]
    own = {name: own_option_schemas(registry, name, common) for name in names}
    link = f"[{{0}}]({section.links_to}#{{0}})" if section.links_to else "`{0}`"
    yield from names_table((link.format(name), section.describe(registry[name]), own[name]) for name in names)
    if section.links_to is None:
        yield from options_tables(own, level=3)


def options_tables(options_of: dict[str, dict[str, Schema]], *, level: int) -> Iterator[str]:
    """A table of each name's options where they have texts or choices; names with the same options share a table."""
    for _, names in grouped((json.dumps(options), name) for name, options in options_of.items()):
        options = options_of[names[0]]
        if any("description" in schema or "enum" in schema for schema in options.values()):
            yield from (f"{'#' * level} Options of {', '.join(names)}", "")
            yield from property_table("option", options)


def common_option_schemas(registry: Registry[Any]) -> dict[str, Schema]:
    """The options that all functions of a registry share, with the defaults of their dataclass."""
    if registry.common is None:
        return {}
    defaults, parameters = registry.common(), registry.options(registry.names()[0])
    common = {
        field.name: parameters[field.name].replace(default=getattr(defaults, field.name))
        for field in dataclasses.fields(registry.common)
    }
    return parameter_schemas(common, argument_texts(registry.common))


def own_option_schemas(registry: Registry[Any], name: str, common: dict[str, Schema]) -> dict[str, Schema]:
    """The options of one function; a common option is among them where its default is another here."""
    properties: dict[str, Schema] = options_schema(registry, name)["properties"]
    return {
        key: schema
        for key, schema in properties.items()
        if key not in common or schema["default"] != common[key]["default"]
    }


def names_table(entries: Iterable[tuple[str, str, dict[str, Schema]]]) -> list[str]:
    """A row per (name, summary, options); names with the same summary and options share a row."""
    groups = grouped(
        ((text, ", ".join(option_text(*item) for item in options.items())), name) for name, text, options in entries
    )
    return markdown_table(("name", "description", "options"), [(", ".join(names), *row) for row, names in groups])


def grouped(items: Iterable[tuple[Key, str]]) -> Iterable[tuple[Key, list[str]]]:
    """The names of each key, in the order of the keys' first items."""
    names_of: dict[Key, list[str]] = {}
    for key, name in items:
        names_of.setdefault(key, []).append(name)
    return names_of.items()


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts vgg8 before vgg11."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", name)]


def option_text(name: str, schema: Schema) -> str:
    return f"`{name} = {json.dumps(schema['default'])}`" if "default" in schema else f"`{name}` (required)"


def type_text(schema: Schema) -> str:
    """A JSON Schema's type in words."""
    if "anyOf" in schema:
        return " or ".join(type_text(form) for form in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        items = schema.get("items", schema.get("prefixItems", [{}])[0])
        length = f"{schema['maxItems']} " if "maxItems" in schema else ""
        return f"list of {length}{plural(type_text(items))}"
    return " ".join([schema.get("type", "any value"), *bounds(schema)])


def plural(type_name: str) -> str:
    first, *rest = type_name.split(" ")
    return " ".join([f"{first}s", *rest])


def bounds(schema: Schema) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and schema[key] < 2**31]


def default_text(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "required"


def anchor(title: str) -> str:
    """GitHub's link to a heading."""
    return f"#{title.lower().replace(' ', '-')}"


def search_lines() -> Iterator[str]:
    """What search.json and the command line of a search select by name."""
    yield SEARCH_HEAD
    for title, text, registry in (
        ("Samplers", "`method` in search.json.", SAMPLERS),
        ("Pruners", "`type` of `early_terminate` in search.json; the options are keys beside it.", PRUNERS),
    ):
        own = {name: own_option_schemas(registry, name, {}) for name in registry.names()}
        if own:
            yield from (f"### {title}", "", text, "")
            yield from names_table((f"`{name}`", module_summary(registry[name]), own[name]) for name in own)
            yield from options_tables(own, level=4)
    if EXECUTORS.names():
        yield from ("### Executors", "", "`--engine` of `search_hyperparams.py`; `--help` explains the options.", "")
        yield from markdown_table(
            ("name", "description", "options"), [executor_row(name) for name in EXECUTORS.names()]
        )


def executor_row(name: str) -> tuple[str, str, str]:
    options = ", ".join(f"`--{option.name}`" for option in getattr(EXECUTORS[name], "OPTIONS", ()))
    return f"`{name}`", module_summary(EXECUTORS[name]), options


PAGE = GeneratedPage("params.md", page_text)

if __name__ == "__main__":
    PAGE.write()
