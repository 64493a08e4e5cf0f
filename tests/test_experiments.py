"""Every shipped experiment can be trained: it passes preflight, is built, and takes a step on random images."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from model.build.experiment import Experiment
from model.build.resolve import resolve_params
from model.build.runtime import Runtime
from model.build.teacher import build_untrained_teacher
from model.build.trainer import build_trainer
from model.commands.dry_run import random_data
from model.commands.preflight import check_experiment
from model.config.folder import Folder
from model.config.generations import first_generation
from model.config.params import Params, load_params, parse_params
from model.files import read_json, write_json
from model.home import ROOT
from model.report.collect import collect_runs
from model.search.plan import CheckParams, make_plan

EXPERIMENTS = ROOT / "experiments"
NUM_IMAGES = 2  # enough for batch norm, few enough for the largest networks


def is_generated(path: Path) -> bool:
    """Whether a folder is the run of a search or a generation of its parent folder."""
    parent = path.parent / "params.json"
    is_generation = path.name.startswith("gen_") and parent.exists() and read_json(parent).get("generations")
    return (path.parent / "search.json").exists() or is_generation


FOLDERS = {
    str(file.parent.relative_to(EXPERIMENTS)): Folder(file.parent)
    for file in sorted(EXPERIMENTS.rglob("params.json"))
    if not is_generated(file.parent)
}
# Folders named by an "init": their losses train a part of the network, or only the parameters of the loss.
FIRST_STAGES = {
    str(Path(init).relative_to("experiments"))
    for folder in FOLDERS.values()
    if (init := read_json(folder.params).get("init"))
}
SEARCHES = [name for name, folder in FOLDERS.items() if (folder.path / "search.json").exists()]


@pytest.fixture
def no_data(tmp_path: Path) -> Runtime:
    """A runtime whose data folder is empty, so that no data set can be read."""
    return Runtime(device=torch.device("cpu"), data_dir=tmp_path)


# Those of photos that a user brings are trained by tests/commands/test_own_images.py.
SHIPPED_DATA = [name for name in FOLDERS if not name.startswith("own_images/")]


@pytest.mark.parametrize("name", SHIPPED_DATA)
def test_an_experiment_takes_a_step(name: str, no_data: Runtime) -> None:
    folder = FOLDERS[name]
    check_experiment(Experiment(folder.path, no_data))
    params = load_params(folder.path)
    if params.generations:
        params = first_generation(params)
    params = params.model_copy(update={"precision": "float32", "batch_size": NUM_IMAGES})
    experiment = Experiment(folder.path, no_data, params=params)
    experiment.data = random_data(experiment)
    trainer = build_trainer(experiment, build_untrained_teacher(experiment, no_data.data_dir))

    trainer.take_step(next(trainer.train_batches(0, 0)))

    objective = cast(nn.Module, trainer.objective)
    parameters = [*trainer.student.named_parameters(), *objective.named_parameters()]
    gradients = {key: parameter.grad for key, parameter in parameters if parameter.grad is not None}
    missing = [key for key, parameter in parameters if parameter.requires_grad and key not in gradients]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert missing == [] or name in FIRST_STAGES


def sampled(check: CheckParams) -> CheckParams:
    """Check params that have a value not seen before, and every tenth run: a search may have hundreds of runs."""
    seen: set[str] = set()
    numbers = itertools.count()

    def check_sampled(params: Params, path: Path) -> None:
        parts = {f"{key} {value}" for key, value in params}
        if parts - seen or next(numbers) % 10 == 0:
            check(params, path)
        seen.update(parts)

    return check_sampled


@pytest.mark.parametrize("name", [name for name in SEARCHES if name in SHIPPED_DATA])
def test_runs_of_a_search_can_be_trained(name: str, no_data: Runtime) -> None:
    plan = make_plan(
        FOLDERS[name].path,
        check=sampled(lambda params, path: check_experiment(Experiment(path.parent, no_data, params=params))),
        restart=True,
    )

    assert plan.pending == plan.runs
    assert len({run.name for run in plan.runs}) == len(plan.runs)
    assert plan.num_trials > 1  # all of a grid are known; those of a sampler are proposed later
    assert len(plan.trials) == plan.num_trials or plan.space.run_cap is not None


def resolved_copy(folder: Folder, runtime: Runtime) -> dict[str, Any]:
    """The content of params_resolved.json, as train.py writes it."""
    resolved: dict[str, Any] = json.loads(json.dumps(Experiment(folder.path, runtime).params.model_dump(mode="json")))
    return resolved


@pytest.mark.parametrize("name", FOLDERS)
def test_a_copied_params_resolved_json_is_the_same_experiment(name: str, no_data: Runtime) -> None:
    folder = FOLDERS[name]
    resolved = resolved_copy(folder, no_data)
    copied = Experiment(folder.path, no_data, params=parse_params(resolved, folder.params))
    assert copied.params.model_dump(mode="json") == resolved


@pytest.mark.parametrize("name", [name for name in FOLDERS if not read_json(FOLDERS[name].params).get("generations")])
def test_a_copied_params_resolved_json_has_the_same_row(name: str, no_data: Runtime, tmp_path: Path) -> None:
    resolved = resolved_copy(FOLDERS[name], no_data)
    for copy, content in (("short", read_json(FOLDERS[name].params)), ("long", resolved)):
        (tmp_path / copy).mkdir()
        write_json(tmp_path / copy / "params.json", content)
        write_json(tmp_path / copy / "params_resolved.json", resolved)
    long, short = collect_runs(tmp_path)
    assert (long.path, long.params, long.notes) == ("long", short.params, ())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_from_a_copied_params_resolved_json_has_the_same_runs(
    name: str, no_data: Runtime, tmp_path: Path
) -> None:
    folder = FOLDERS[name]
    resolved = resolved_copy(folder, no_data)
    for copy, content in (("short", read_json(folder.params)), ("long", resolved)):
        (tmp_path / copy).mkdir()
        write_json(tmp_path / copy / "params.json", content)
        shutil.copy(folder.path / "search.json", tmp_path / copy)
    short, long = (make_plan(tmp_path / copy, restart=True) for copy in ("short", "long"))
    for run, expected in zip(long.runs, short.runs, strict=True):
        assert run.name == expected.name
        params = [parse_params(each.params, each.folder.params) for each in (run, expected)]
        if (
            params[0].student.name == resolved["student"]["name"]
        ):  # another network may not have the options of this one
            assert resolve_params(params[0]) == resolve_params(params[1])


@pytest.mark.parametrize("name", FOLDERS)
def test_readme_lists_every_experiment(name: str) -> None:
    readme = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    patterns = re.findall(r"^\| `(.+?)` \|", readme, flags=re.MULTILINE)

    assert any(fnmatch(name, pattern) for pattern in patterns), f"give {name} a line in experiments/README.md"


def test_readme_commands_name_existing_experiments() -> None:
    readme = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:--model_dir|--parent_dir) experiments/([\w/]+)", readme)

    assert named
    assert set(named) <= set(FOLDERS)
