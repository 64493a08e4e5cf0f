"""The JSON Schema of params.json, made from the code, so that an editor can complete and check it.

    python -m model.docs.params_schema      writes docs/params.schema.json

Names, options, types and defaults come from the registered functions' signatures, texts from their docstrings. What a
function checks itself (a temperature above 0), and the ancestor's flat form, are not in it.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from pydantic import TypeAdapter

from .. import build  # fills the registries
from ..config.params import Init, Params, Teacher
from ..files import write_text
from ..home import ROOT
from ..registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry

OBVIOUS = ("additionalProperties", True)
SCHEMA_FILE = ROOT / "docs" / "params.schema.json"


def schema() -> dict[str, Any]:
    """What a params.json may hold."""
    whole = Params.model_json_schema()
    told = arguments(Params)
    properties = {
        key: {"description": told[key]} | {name: value for name, value in made.items() if name != "title"}
        for key, made in whole["properties"].items()
    }
    for key, registry in (
        ("dataset", DATASETS),
        ("student", NETS),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
    ):
        one_of = [component(registry, name, {"const": name}) for name in registry.names()]
        one_of += [
            component(registry, f"{prefix}/...", {"type": "string", "pattern": f"^{prefix}/."})
            for prefix in registry.families()
        ]
        kept = {name: value for name, value in properties[key].items() if name in ("description", "default")}
        properties[key] = kept | {"type": "object", "required": ["name"], "oneOf": one_of}
    properties["teacher"] = {"description": told["teacher"], "default": None, "anyOf": teacher()}
    properties["init"] = {"description": told["init"], "default": None, "anyOf": init()}
    properties["loss"] = {
        "description": told["loss"],
        "default": whole["properties"]["loss"]["default"],
        "type": "object",
        "minProperties": 1,
        "properties": {name: options(LOSSES, name) for name in LOSSES.names()},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.json",
        "description": "One experiment of Retort.",
        "type": "object",
        "properties": properties,
        "required": whole["required"],
        "additionalProperties": False,
    }


def component(registry: Registry[Any], name: str, written: dict[str, Any]) -> dict[str, Any]:
    """An object that names a function, as `written`, and sets its options."""
    made = options(registry, name)
    made["properties"] = {"name": written} | made["properties"]
    return made | {"required": ["name", *made.get("required", ())]}


def options(registry: Registry[Any], name: str) -> dict[str, Any]:
    """An object of what a user may set for one registered function."""
    told = arguments(registry[name]) | (arguments(registry.common) if registry.common else {})
    properties, required = {}, []
    for key, parameter in registry.options(name).items():
        properties[key] = _without_the_obvious(TypeAdapter(parameter.annotation).json_schema())
        if key in told:
            properties[key]["description"] = told[key]
        if parameter.default is inspect.Parameter.empty:
            required.append(key)
        else:
            properties[key]["default"] = parameter.default
    made: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = required
    first_line = (inspect.getdoc(registry[name]) or "").partition("\n")[0]
    return {"description": first_line} | made if first_line else made


def _without_the_obvious(made: Any) -> Any:
    """Without `"additionalProperties": true`, which is the default, and which older versions of pydantic leave out."""
    if isinstance(made, dict):
        return {key: _without_the_obvious(each) for key, each in made.items() if (key, each) != OBVIOUS}
    return [_without_the_obvious(each) for each in made] if isinstance(made, list) else made


def teacher() -> list[dict[str, Any]]:
    """The three ways to name teachers, and none."""
    folder = {"type": "string", "minLength": 1}
    folders = {"type": "array", "items": folder, "minItems": 1}
    return [folder, folders, by_object(Teacher, {"anyOf": [folder, folders]}), {"type": "null"}]


def init() -> list[dict[str, Any]]:
    """The two ways to name where a run starts, and none."""
    folder = {"type": "string", "minLength": 1}
    return [folder, by_object(Init, folder), {"type": "null"}]


def by_object(model: type[Teacher] | type[Init], model_dir: dict[str, Any]) -> dict[str, Any]:
    told = arguments(model)
    properties = {
        key: {"description": told[key]} | {name: value for name, value in made.items() if name != "title"}
        for key, made in model.model_json_schema()["properties"].items()
    }
    properties["model_dir"] = {"description": told["model_dir"], **model_dir}
    return {"type": "object", "properties": properties, "required": ["model_dir"], "additionalProperties": False}


def arguments(documented: Any) -> dict[str, str]:
    """The "Args:" of a docstring: name -> text on one line."""
    _, _, section = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if named := re.match(r"    (\w+): (.*)", line):
            name, found[named[1]] = named[1], named[2]
        else:
            found[name] += f" {line.strip()}"
    return found


def text() -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.parent.mkdir(exist_ok=True)
    write_text(SCHEMA_FILE, text())
    print(f"written: {SCHEMA_FILE.relative_to(ROOT)}")
