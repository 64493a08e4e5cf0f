"""Born-again networks: generations of one network, each distilled from the one before.

Furlanello, Lipton, Tschannen, Itti and Anandkumar, "Born-Again Neural Networks", ICML 2018.
https://arxiv.org/abs/1805.04770

A folder whose params.json has `"generations": K` contains K ordinary experiments, gen_0 to gen_(K-1), with the params
of that file. Two things differ: gen_0 learns from labels alone unless the file has a teacher, and the seed rises by one
each time, so that every generation has initial weights of its own.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import UserError
from ..files import read_intact, write_text
from .folder import Folder
from .params import Params, load_params
from .references import rebase_paths


def generation_folders(folder: Folder, params: Params) -> list[Folder]:
    """The folders of all generations, first to last, whether they exist or not."""
    return [Folder(folder.path / f"gen_{number}") for number in range(params.generations or 0)]


def generation_params(folder: Folder, params: Params, number: int) -> dict[str, Any]:
    """The content of the params.json of generation `number`, counted from 0."""
    child = params.model_dump(mode="json", exclude_unset=True, exclude={"generations", "description"})
    child = rebase_paths(child, folder.path)
    child["seed"] = params.seed + number
    if number > 0:
        child["teacher"] = {**(child.get("teacher") or {}), "model_dir": [f"../gen_{number - 1}"]}
    elif params.teacher is None:
        child["loss"] = {"ce": {}}
    return child


def prepare_generations(folder: Folder) -> list[Folder]:
    """Create the folders of all generations with their params.json, unless they exist.

    Raises:
        UserError: The params.json of one exists with other content.
    """
    params = load_params(folder.path)  # not resolved: the run of each generation fills in its defaults
    folders = generation_folders(folder, params)
    for number, child in enumerate(folders):
        expected = generation_params(folder, params, number)
        existing = read_intact(child.params)
        if not existing:
            child.path.mkdir(exist_ok=True)
            write_text(child.params, json.dumps(expected, indent=2) + "\n")
        elif existing != expected:
            raise UserError(
                f"{child.params}: does not match {folder.params}; restore that file, or remove the folder {child.name} "
                "and those after it to train them again"
            )
    return folders


def first_generation(params: Params) -> Params:
    """The params of the first generation, with the teacher's path as written: relative to the parent folder."""
    without_teacher: dict[str, Any] = {} if params.teacher else {"loss": {"ce": {}}}
    return params.model_copy(update={"generations": None, **without_teacher})
