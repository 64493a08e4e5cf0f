"""The JSON Schema of params.json, made from the code, so that an editor can complete and check it.

    python -m model.docs.params_schema      writes docs/params.schema.json

Names, options, types and defaults come from the registered functions' signatures, texts from their docstrings. The
schema contains neither what a function itself checks (a temperature above 0) nor the ancestor's flat form.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from .. import build  # fills the registries
from ..config.params import EarlyStoppingParams, EmaParams, InitParams, Params, Strict, TeacherParams
from ..registry import DATASETS, LOSSES, NETS, OPTIMIZERS, SCHEDULES, Registry
from .docstrings import argument_texts, summary
from .pages import GeneratedPage

Schema = dict[str, Any]

COMPONENTS: dict[str, Registry[Any]] = {
    "dataset": DATASETS,
    "student": NETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
FOLDER: Schema = {"type": "string", "minLength": 1}
FOLDERS: Schema = {"type": "array", "items": FOLDER, "minItems": 1}
NULL: Schema = {"type": "null"}
DEFAULT_OF_JSON_SCHEMA = ("additionalProperties", True)


def params_schema() -> Schema:
    """The schema of a params.json."""
    model, texts = Params.model_json_schema(), argument_texts(Params)
    properties = documented_properties(Params)
    for key, registry in COMPONENTS.items():
        head = {name: value for name, value in properties[key].items() if name in ("description", "default")}
        properties[key] = head | {"type": "object", "required": ["name"], "oneOf": component_schemas(registry)}
    properties["teacher"] = {"description": texts["teacher"], "default": None, "anyOf": teacher_schemas()}
    properties["init"] = {"description": texts["init"], "default": None, "anyOf": init_schemas()}
    early_stopping = [object_schema(EarlyStoppingParams), NULL]
    properties["early_stopping"] = {"description": texts["early_stopping"], "default": None, "anyOf": early_stopping}
    ema = [documented_properties(EmaParams)["decay"], object_schema(EmaParams), NULL]
    properties["ema"] = {"description": texts["ema"], "default": None, "anyOf": ema}
    properties["loss"] = {
        "description": texts["loss"],
        "default": model["properties"]["loss"]["default"],
        "type": "object",
        "minProperties": 1,
        "properties": {name: options_schema(LOSSES, name) for name in LOSSES.names()},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.json",
        "description": "One experiment of Retort.",
        "type": "object",
        "properties": properties,
        "required": model["required"],
        "additionalProperties": False,
    }


def component_schemas(registry: Registry[Any]) -> list[Schema]:
    """An object with `name` and options for every registered function, then for every family."""
    names = [(name, {"const": name}) for name in registry.names()]
    names += [(f"{prefix}/...", {"type": "string", "pattern": f"^{prefix}/."}) for prefix in registry.families()]
    schemas = []
    for name, name_schema in names:
        schema = options_schema(registry, name)
        schema["properties"] = {"name": name_schema} | schema["properties"]
        schemas.append(schema | {"required": ["name", *schema.get("required", ())]})
    return schemas


def options_schema(registry: Registry[Any], name: str) -> Schema:
    """An object of the options of one registered function."""
    texts = argument_texts(registry[name]) | (argument_texts(registry.common) if registry.common else {})
    properties = parameter_schemas(registry.options(name), texts)
    schema: Schema = {"description": summary(registry[name])}
    schema |= {"type": "object", "properties": properties, "additionalProperties": False}
    required = [key for key, property_schema in properties.items() if "default" not in property_schema]
    return schema | ({"required": required} if required else {})


def parameter_schemas(parameters: Mapping[str, inspect.Parameter], texts: Mapping[str, str]) -> dict[str, Schema]:
    """Type, text and default of each keyword argument; one that must be given has no default."""
    schemas = {}
    for key, parameter in parameters.items():
        schema = _without_defaults(TypeAdapter(parameter.annotation).json_schema())
        if key in texts:
            schema["description"] = texts[key]
        if parameter.default is not inspect.Parameter.empty:
            schema["default"] = parameter.default
        schemas[key] = schema
    return schemas


def _without_defaults(schema: Any) -> Any:
    """Without `"additionalProperties": true`, which is the default, and which older versions of pydantic leave out."""
    if isinstance(schema, dict):
        return {
            key: _without_defaults(value) for key, value in schema.items() if (key, value) != DEFAULT_OF_JSON_SCHEMA
        }
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


def teacher_schemas() -> list[Schema]:
    """The forms of `teacher`: a folder, a list of folders, an object, or null."""
    return [FOLDER, FOLDERS, object_schema(TeacherParams, model_dir={"anyOf": [FOLDER, FOLDERS]}), NULL]


def init_schemas() -> list[Schema]:
    """The forms of `init`: a folder, an object, or null."""
    return [FOLDER, object_schema(InitParams, model_dir=FOLDER), NULL]


def object_schema(model: type[Strict], **forms: Schema) -> Schema:
    """An object of the keys of a pydantic model.

    Args:
        forms: Of keys that may be written in other forms than the model's.
    """
    properties, texts = documented_properties(model), argument_texts(model)
    properties |= {key: {"description": texts[key], **form} for key, form in forms.items()}
    required = model.model_json_schema().get("required")
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {}) | {"additionalProperties": False}


def documented_properties(model: type[Strict]) -> dict[str, Schema]:
    """The schema of each key of a pydantic model, with its text."""
    texts = argument_texts(model)
    return {
        key: {"description": texts[key]} | {name: value for name, value in schema.items() if name != "title"}
        for key, schema in model.model_json_schema()["properties"].items()
    }


def schema_text() -> str:
    return json.dumps(params_schema(), indent=2, ensure_ascii=False) + "\n"


PAGE = GeneratedPage("params.schema.json", schema_text)

if __name__ == "__main__":
    PAGE.write()
