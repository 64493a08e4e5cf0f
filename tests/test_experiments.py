"""Every experiment that is shipped can be trained: it is checked, built, and takes a step on random images."""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from model.build.experiment import Experiment
from model.build.runtime import Runtime
from model.build.teacher import build_untrained_teacher
from model.build.trainer import build_trainer
from model.commands.dry_run import random_data
from model.commands.preflight import check_experiment
from model.config.folder import Folder
from model.config.generations import first_generation
from model.config.params import Params, load_params
from model.files import read_json
from model.home import ROOT
from model.search.plan import CheckParams, make_plan

EXPERIMENTS = ROOT / "experiments"
NUM_IMAGES = 2  # enough for batch norm, few enough for the largest networks


def is_made(path: Path) -> bool:
    """Whether a folder was made by its parent: a run of a search, or a generation."""
    parent = path.parent / "params.json"
    is_generation = path.name.startswith("gen_") and parent.exists() and "generations" in read_json(parent)
    return (path.parent / "search.json").exists() or is_generation


FOLDERS = {
    str(file.parent.relative_to(EXPERIMENTS)): Folder(file.parent)
    for file in sorted(EXPERIMENTS.rglob("params.json"))
    if not is_made(file.parent)
}
# Folders that others start from: their losses reach a part of the network, or what they own alone.
FIRST_STAGES = {
    str(Path(init).relative_to("experiments"))
    for folder in FOLDERS.values()
    if (init := read_json(folder.params).get("init"))
}
SEARCHES = [name for name, folder in FOLDERS.items() if (folder.path / "search.json").exists()]


@pytest.fixture
def nowhere(tmp_path: Path) -> Runtime:
    """A place without data, so that none can be read."""
    return Runtime(device=torch.device("cpu"), data_dir=tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_an_experiment_takes_a_step(name: str, nowhere: Runtime) -> None:
    folder = FOLDERS[name]
    check_experiment(Experiment(folder.path, nowhere))
    params = load_params(folder.path)
    if params.generations:
        params = first_generation(params)
    params = params.model_copy(update={"precision": "float32", "batch_size": NUM_IMAGES})
    experiment = Experiment(folder.path, nowhere, params=params)
    experiment.data = random_data(experiment)
    trainer = build_trainer(experiment, build_untrained_teacher(experiment, nowhere.data_dir))

    trainer.take_step(next(trainer.train_batches(0, 0)))

    objective = cast(nn.Module, trainer.objective)
    parameters = [*trainer.student.named_parameters(), *objective.named_parameters()]
    gradients = {key: parameter.grad for key, parameter in parameters if parameter.grad is not None}
    missing = [key for key, parameter in parameters if parameter.requires_grad and key not in gradients]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert missing == [] or name in FIRST_STAGES


def some(check: CheckParams) -> CheckParams:
    """Check each part of params that has not been met yet, and every tenth run: searches may have hundreds of runs."""
    met: set[str] = set()
    numbers = itertools.count()

    def check_some(params: Params, path: Path) -> None:
        parts = {f"{key} {value}" for key, value in params}
        if parts - met or next(numbers) % 10 == 0:
            check(params, path)
        met.update(parts)

    return check_some


@pytest.mark.parametrize("name", SEARCHES)
def test_runs_of_a_search_can_be_trained(name: str, nowhere: Runtime) -> None:
    plan = make_plan(
        FOLDERS[name].path,
        check=some(lambda params, path: check_experiment(Experiment(path.parent, nowhere, params=params))),
        restart=True,
    )

    assert plan.pending == plan.runs
    assert len({run.name for run in plan.runs}) == len(plan.runs) > 1


@pytest.mark.parametrize("name", FOLDERS)
def test_an_experiment_has_a_line_in_the_readme(name: str) -> None:
    readme = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(.+?)` \|", readme, flags=re.MULTILINE)

    assert any(fnmatch(name, pattern) for pattern in listed), f"give {name} a line in experiments/README.md"


def test_the_readme_lists_what_there_is() -> None:
    readme = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:--model_dir|--parent_dir) experiments/([\w/]+)", readme)

    assert named
    assert set(named) <= set(FOLDERS)
