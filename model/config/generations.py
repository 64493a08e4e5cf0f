"""Born-again networks: generation after generation, each taught by the one before.

Furlanello, Lipton, Tschannen, Itti and Anandkumar, "Born-Again Neural Networks", ICML 2018.
https://arxiv.org/abs/1805.04770

A folder whose params.json has `"generations": K` holds K ordinary experiments, gen_0 to gen_(K-1): all trained by what
params.json says, but for gen_0, which learns from labels alone unless a teacher is named, and for the seed, which
rises by one each time, so that every generation begins with fresh weights.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import UserError
from ..files import read_json, write_text
from .folder import Folder
from .params import Params, load_params
from .references import one_level_deeper


def generation_folders(folder: Folder, params: Params) -> list[Folder]:
    """The folders of all generations, first to last, whether they are there or not."""
    return [Folder(folder.path / f"gen_{number}") for number in range(params.generations or 0)]


def generation_params(folder: Folder, params: Params, number: int) -> dict[str, Any]:
    """What the params.json of a generation, counted from 0, says."""
    child = params.model_dump(mode="json", exclude_unset=True, exclude={"generations", "description"})
    child = one_level_deeper(child, folder.path)
    child["seed"] = params.seed + number
    if number > 0:
        child["teacher"] = {**child.get("teacher", {}), "model_dir": [f"../gen_{number - 1}"]}
    elif params.teacher is None:
        child["loss"] = {"ce": {}}
    return child


def prepare_generations(folder: Folder) -> list[Folder]:
    """Make the folders of all generations with their params.json, unless they are there and the same.

    Raises:
        UserError: One is there and says something else.
    """
    params = load_params(folder.path)  # as it is written: defaults are filled in by each generation's own run
    folders = generation_folders(folder, params)
    for number, child in enumerate(folders):
        wanted = generation_params(folder, params, number)
        if not child.params.exists():
            child.path.mkdir(exist_ok=True)
            write_text(child.params, json.dumps(wanted, indent=2) + "\n")
        elif read_json(child.params) != wanted:
            raise UserError(
                f"{child.params}: is not what {folder.params} makes of it; put that file back, or remove the folder "
                f"{child.name} and those after it to have them trained anew"
            )
    return folders


def first_generation(params: Params) -> Params:
    """The params of the first generation, with a teacher's folder as it is named in the parent's folder."""
    labels_alone: dict[str, Any] = {} if params.teacher else {"loss": {"ce": {}}}
    return params.model_copy(update={"generations": None, **labels_alone})
