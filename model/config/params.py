"""params.json: the schema of an experiment, and how values in it are named.

This file knows the form (which keys, which types); what a network's or a loss's own options may be is known by its
function's signature (model/registry.py), checked in model/build.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import OptionError, UserError, option_error, preview
from ..files import read_json
from .legacy import is_flat, nested_from_flat
from .references import _nearest_folder

PARAMS_FILE = "params.json"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Component(Strict):
    """A function by its name, with every other key one of its keyword arguments."""

    model_config = ConfigDict(extra="allow")
    expected_form: ClassVar[str] = 'an object with a "name"'

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

    expected_form: ClassVar[str] = 'a folder, a list of folders, or an object with "model_dir"'

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

    expected_form: ClassVar[str] = 'a folder, or an object with "model_dir"'

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
        raise UserError(f"{path}: must be a JSON object, got {preview(raw)}")
    try:
        return _validate(nested_from_flat(raw) if is_flat(raw) else raw)
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None


def _validate(raw: dict[str, Any]) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise option_error(error, raw, Params) from None
