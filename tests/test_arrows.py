"""Who may import whom, held over the real imports of every file: those inside functions, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

from model.home import ROOT

GROUND = (
    "model.cpus",
    "model.errors",
    "model.files",
    "model.fingerprint",
    "model.home",
    "model.logs",
    "model.markdown",
    "model.randomness",
    "model.types",
)

SCRIPTS = ("train", "evaluate", "search_hyperparams", "synthesize_results")

# A part -> what it may import beside itself. A part is a module or a package with all that is in it.
ARROWS: dict[str, tuple[str, ...]] = {
    # the scripts run a command
    **dict.fromkeys(SCRIPTS, ("model.cli",)),
    "retort": ("model",),
    "model.__main__": ("model.cli",),
    "model.cli": (
        *("model.build", "model.commands", "model.config", "model.report", "model.search"),
        *("model.training.distributed", *GROUND),
    ),
    # orchestration
    "model.commands": (
        "model.build",
        "model.config",
        "model.data",
        "model.evaluation",
        "model.teachers",
        "model.training",
        *GROUND,
    ),
    "model.docs": (
        *(
            "model.build",
            "model.config",
            "model.evaluation",
            "model.losses",
            "model.nets",
            "model.registry",
            "model.report",
            "model.search",
        ),
        *GROUND,
    ),
    # from params.json to objects
    "model.build": (
        *("model.config", "model.data", "model.evaluation", "model.losses", "model.nets", "model.registry"),
        *("model.teachers", "model.training", *GROUND),
    ),
    # what a notebook calls, Experiment.train(), is the one call upwards
    "model.build.experiment": (
        *("model.build", "model.config", "model.evaluation", "model.losses", "model.nets", "model.registry"),
        *("model.training", "model.commands.train", *GROUND),
    ),
    # the parts, handed to one another as objects
    "model.evaluation": ("model.teachers.ensemble", "model.training.precision", *GROUND),
    "model.teachers": ("model.training.precision", *GROUND),
    "model.training": ("model.config.folder", *GROUND),
    "model.training.optimizers": ("model.registry", *GROUND),
    "model.training.schedules": ("model.registry", *GROUND),
    "model.nets": ("model.registry", *GROUND),
    "model.losses": ("model.registry", *GROUND),
    "model.data": ("model.registry", *GROUND),
    # what looks at folders and JSON only
    "model.search": ("model.config", "model.registry", *GROUND),
    "model.report": ("model.config", "model.registry", "model.search.space", *GROUND),
    "model.config": ("model.errors", "model.files", "model.home", "model.logs"),
    # the ground
    "model.registry": ("model.errors", "model.types"),
    "model.files": ("model.errors", "model.logs"),
    "model.cpus": (),
    "model.errors": (),
    "model.home": (),
    "model.logs": (),
    "model.markdown": (),
    "model.fingerprint": (),
    "model.randomness": (),
    "model.types": ("model.fingerprint",),
}

WITHOUT_TORCH = (
    *("model.cli", "model.search", "model.report", "model.config"),
    *("model.cpus", "model.errors", "model.files", "model.home", "model.logs", "model.types", "model.registry"),
)


def name_of(file: Path) -> str:
    """model/nets/cnn.py -> model.nets.cnn, model/nets/__init__.py -> model.nets."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for file in (*ROOT.glob("*.py"), *(ROOT / "model").rglob("*.py"))}


def belongs(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def part_of(module: str) -> str:
    """The part that a module belongs to."""
    return max((part for part in ARROWS if belongs(module, part)), key=len, default="")


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import; `from .. import build` imports model.build."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in FILES else base


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in {name.partition(".")[0] for name in FILES}


def wrong_arrows(module: str, source: str) -> list[str]:
    part = part_of(module)
    return [
        f"{module}, line {line}: {part} may not import {target}"
        for line, target in imports(module, source)
        if is_ours(target) and not any(belongs(target, allowed) for allowed in (part, *ARROWS[part]))
    ]


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"model"}))
def test_every_module_has_a_rule(module: str) -> None:
    assert any(belongs(module, part) for part in ARROWS), f"{module} is new: say in ARROWS what it may import"


@pytest.mark.parametrize("part", ARROWS)
def test_every_rule_has_a_module(part: str) -> None:
    assert part in FILES


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"model"}))
def test_no_import_goes_against_the_arrows(module: str) -> None:
    assert wrong_arrows(module, FILES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", sorted(name for name in FILES if belongs(name, "model")))
def test_imports_inside_the_package_are_relative(module: str) -> None:
    """So that the same code is `model` in a checkout and `retort` once it is installed."""
    named = [
        node.module or ""
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level
    ]
    assert not [name for name in named if belongs(name, "model")]


# model.types names tensors for type checkers only, as the test after this one shows
@pytest.mark.parametrize(
    "module", sorted(name for name in FILES if part_of(name) in WITHOUT_TORCH and name != "model.types")
)
def test_what_looks_at_folders_does_not_import_torch(module: str) -> None:
    imported = {target.partition(".")[0] for _, target in imports(module, FILES[module].read_text(encoding="utf-8"))}

    assert not imported & {"torch", "torchvision"}


def test_what_looks_at_folders_runs_without_torch() -> None:
    modules = [name for name in FILES if name != "model" and part_of(name) in WITHOUT_TORCH]
    modules += ["retort", *SCRIPTS]
    script = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


WRONG = {
    "a loss that imports a network": ("model.losses.at", "from model.nets.cnn import CNN"),
    "a network that imports a data set": ("model.nets.cnn", "import model.data"),
    "the trainer that builds": ("model.training.trainer", "def fit():\n    from model import build"),
    "a report that trains": ("model.report.tables", "from model.training import trainer"),
    "anything that imports a script": ("model.commands.train", "import train"),
}


@pytest.mark.parametrize(("module", "source"), WRONG.values(), ids=WRONG.keys())
def test_the_rules_find(module: str, source: str) -> None:
    assert len(wrong_arrows(module, source)) == 1
