"""params.json: the schema of an experiment, and how values in it are named.

This file knows the form (which keys, which types); what a network's or a loss's own options may be is known by its
function's signature (model/registry.py), checked in model/build.py.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model.legacy import is_flat, nested_from_flat
from utils import OptionError, UserError, nearest, read_json, shown, wrong_value

ROOT = Path(__file__).resolve().parent.parent
PARAMS_FILE = "params.json"

# Keys that say how a run is done, not what it computes: they may change between stopping and going on.
FREE_TO_CHANGE = ("description", "checkpoint_minutes")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Component(Strict):
    """A function by its name, with every other key one of its keyword arguments."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Teacher(Strict):
    """The folder or folders that teach.

    Args:
        model_dir: A folder, or several that teach together; relative to the repository's root, then to this folder.
        weights: Which weights of their runs.
        combine: Whether several folders say the mean of their probabilities or of their logits.
        cache: Whether their answers are kept in their folders for this run and later ones. By default they are where
            the data set's views are finite (all but `folder`) and every loss term reads logits or embeddings only.
        cache_top_k: Keep the largest probabilities only, so many, and spread the rest evenly over the other classes;
            by default all logits are kept, and of `folder` data sets 16 probabilities.
    """

    model_dir: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    weights: Literal["best", "last"] = "best"
    combine: Literal["probabilities", "logits"] = "probabilities"
    cache: bool | None = None
    cache_top_k: Annotated[int, Field(ge=1)] | None = None


def _teacher(value: Any) -> Any:
    if isinstance(value, str):
        return {"model_dir": [value]}
    if isinstance(value, list):
        return {"model_dir": value}
    if isinstance(value, dict) and isinstance(value.get("model_dir"), str):
        return value | {"model_dir": [value["model_dir"]]}
    return value


class Init(Strict):
    """The folder whose weights a run starts from.

    Args:
        model_dir: The folder; relative to the repository's root, then to this folder.
        weights: Which weights of its run. The last ones come with what loss terms have learned: a term that both
            folders have takes it over.
    """

    model_dir: Annotated[str, Field(min_length=1)]
    weights: Literal["best", "last"] = "last"


def _init(value: Any) -> Any:
    return {"model_dir": value} if isinstance(value, str) else value


class Params(Strict):
    """One experiment. Every default is filled in; a run never changes it.

    Args:
        description: For people; changes nothing.
        dataset: The images, by name, with their options.
        student: The network that is trained, by name, with its options.
        teacher: A folder whose network teaches, a list of them (an ensemble), or an object with `model_dir`; relative
            to the repository's root, then to this folder.
        init: A folder whose network's weights the run starts from, or an object with `model_dir` and `weights`; fresh
            weights where it is left out.
        generations: Born-again networks: train so many, in folders gen_0, gen_1, ... of this one; the first learns from
            labels (or the teacher, where one is named), each other from the one before.
        loss: The terms that are added up: the name of each, and its options.
        optimizer: What turns gradients into steps, by name, with its options.
        schedule: How the learning rate changes over the run, by name, with its options.
        batch_size: Images a step.
        num_epochs: How often all training images are seen.
        gradient_clip: Largest norm of the gradient; a longer one is scaled down to it.
        seed: Draws initial weights, the order of images, their views, and dropout.
        precision: What networks compute in; auto is bfloat16 where the hardware has it.
        compile: Whether torch.compile makes the student's step. auto: where a GPU trains for more than five minutes, as
            compiling takes about one.
        checkpoint_minutes: Time between two checkpoints in the middle of an epoch.
    """

    description: str = ""
    dataset: Component
    student: Component
    teacher: Annotated[Teacher | None, BeforeValidator(_teacher)] = None
    init: Annotated[Init | None, BeforeValidator(_init)] = None
    generations: Annotated[int, Field(ge=2)] | None = None
    loss: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {"ce": {}}
    optimizer: Component = Component(name="sgd")
    schedule: Component = Component(name="constant")
    batch_size: Annotated[int, Field(ge=1)] = 128
    num_epochs: Annotated[int, Field(ge=1)] = 30
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0


def load_params(model_dir: Path) -> Params:
    """Read a folder's params.json, in our form or in the seeds' flat one.

    Raises:
        UserError: No folder, no file, no JSON, an unknown key or a value of the wrong type.
    """
    if model_dir.is_file():
        raise UserError(f"{model_dir}: is a file, not a folder that holds {PARAMS_FILE}")
    if not model_dir.is_dir():
        raise UserError(f"{model_dir}: no such folder{_nearest_folder(model_dir)}")
    path = model_dir / PARAMS_FILE
    if not path.exists():
        raise UserError(f"{model_dir}: the folder holds no {PARAMS_FILE}")
    return parse_params(read_json(path), path)


def parse_params(raw: Any, path: Path) -> Params:
    """Check a parsed params.json; `path` is named in messages."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must be a JSON object, got {shown(raw)}")
    try:
        return Params.model_validate(nested_from_flat(raw) if is_flat(raw) else raw)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from None
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


EXPECTED = {
    "Component": 'an object with a "name"',
    "Init": 'a folder, or an object with "model_dir"',
    "Teacher": 'a folder, a list of folders, or an object with "model_dir"',
}


def _first(error: ValidationError) -> str:
    """The first of pydantic's errors as one line: key, what came, what is allowed."""
    # A misspelt key is also missed under its right name: the spelling tells more.
    details = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first = details[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        parts: dict[Any, type[Strict]] = {"teacher": Teacher, "init": Init}
        known = list(parts.get(first["loc"][0], Params).model_fields)
        return f"{key}: unknown key{nearest(str(first['loc'][-1]), known)}; known: {', '.join(known)}{more}"
    if first["type"] == "missing":
        return f"{key}: this key is needed{more}"
    if first["type"] == "model_type":
        expected = EXPECTED[first["ctx"]["class_name"]]
        return f"{key}: should be {expected}, got {shown(first['input'])}{more}"
    return f"{key}: {wrong_value(first)}{more}"


def _nearest_folder(*paths: Path) -> str:
    parents = {path.parent for path in paths if path.parent.is_dir()}
    return nearest(paths[0].name, {entry.name for parent in parents for entry in parent.iterdir() if entry.is_dir()})


def find_folder(name: str, relative_to: Path, *, key: str = "teacher") -> Path:
    """The folder that a params.json names: relative to the repository's root, then to the folder itself.

    Raises:
        OptionError: There is no such folder.
    """
    for base in (ROOT, relative_to):
        if (base / name).is_dir():
            return (base / name).resolve()
    near = _nearest_folder(ROOT / name, relative_to / name)
    raise OptionError(key, f"no folder {shown(name)} under {ROOT} or {relative_to}{near}")


def one_level_deeper(raw: dict[str, Any], parent_dir: Path) -> dict[str, Any]:
    """The same params for a folder in `parent_dir`: folders named relative to `parent_dir` are named from there."""
    moved = {}
    for key in ("teacher", "init"):
        named = raw.get(key)
        if isinstance(named, dict) and "model_dir" in named:
            moved[key] = named | {"model_dir": _moved(named["model_dir"], parent_dir)}
        elif named:
            moved[key] = _moved(named, parent_dir)
    return raw | moved


def _moved(names: Any, parent_dir: Path) -> Any:
    if isinstance(names, list):
        return [_moved(name, parent_dir) for name in names]
    if not isinstance(names, str) or (ROOT / names).is_dir() or not (parent_dir / names).is_dir():
        return names  # the repository's root counts first
    deeper = f"../{names}"
    return str((parent_dir / names).resolve()) if (ROOT / deeper).is_dir() else deeper


# Names of values ----------------------------------------------------------------------------------------------------


def leaves(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a nested object under its dotted path: {"loss.kd.alpha": 0.9, ...}; lists are values."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        path = f"{prefix}{key}"
        if isinstance(child, dict) and child:
            found |= leaves(child, f"{path}.")
        else:
            found[path] = child
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two params objects and matters for the result, one text a value."""
    old, new = leaves(before), leaves(now)
    return [
        f"{key} was {json.dumps(old.get(key))}, is {json.dumps(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in FREE_TO_CHANGE
    ]


def full_path(params: dict[str, Any], name: str) -> str:
    """The dotted path that a name stands for: itself, or the only path that ends in it.

    What the file leaves out may be named, too: a top-level key of the schema, or by its whole path an option of
    something that the file has (`optimizer.momentum`); whether there is such an option is for the function to say.

    Raises:
        OptionError: Nothing has this name, or several do.
    """
    paths = _paths(params)
    if name in paths or name in Params.model_fields or isinstance(paths.get(name.rpartition(".")[0]), dict):
        return name
    ending = [path for path in paths if path.endswith(f".{name}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise OptionError(name, f"stands for several values: {', '.join(ending)}; write one of these")
    known = sorted({path.rpartition(".")[2] for path in paths} | paths.keys() | set(Params.model_fields))
    raise OptionError(name, f"no value of {PARAMS_FILE} has this name{nearest(name, known)}")


def value_of(params: dict[str, Any], name: str) -> Any:
    """The value that a name stands for.

    Raises:
        OptionError: Nothing has this name, or several do, or the file leaves it out.
    """
    path, paths = full_path(params, name), _paths(params)
    if path not in paths:
        raise OptionError(name, f"is not in {PARAMS_FILE}")
    return paths[path]


def _paths(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value under its dotted path, the objects that hold others, too."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        found[f"{prefix}{key}"] = child
        if isinstance(child, dict):
            found |= _paths(child, f"{prefix}{key}.")
    return found


def with_values(params: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a params.json object with the named values (dotted paths or unique leaf names) replaced.

    A name stands for what it stands for in `params`, or else in what the values before it have put there.
    """
    changed = copy.deepcopy(params)
    for name, value in values.items():
        try:
            path = full_path(params, name)
        except OptionError:
            path = full_path(changed, name)
        *parents, leaf = path.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        place[leaf] = copy.deepcopy(value)
    return changed
