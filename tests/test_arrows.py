"""Who may import whom, held over the real imports of every file: those inside functions, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.params import ROOT

BY_SCRIPTS = (
    *("model.build", "model.check", "model.run", "model.dry_run", "model.search", "model.report", "model.evaluation"),
    *("model.folder", "model.params", "utils"),
)

# A part -> what it may import beside itself. A part is a module or a package with all that is in it.
ARROWS: dict[str, tuple[str, ...]] = {
    # scripts: parse, call, print
    "train": (*BY_SCRIPTS, "model.engine.distributed"),
    "evaluate": (*BY_SCRIPTS, "model.evaluate"),
    "search_hyperparams": BY_SCRIPTS,
    "synthesize_results": BY_SCRIPTS,
    # what puts the parts together
    "model.run": (
        *(
            "model.build",
            "model.build_teacher",
            "model.check",
            "model.earlier",
            "model.ending",
            "model.engine",
            "model.evaluation",
            "model.folder",
            "model.generations",
            "model.params",
            "model.provenance",
        ),
        *("model.types", "utils"),
    ),
    "model.dry_run": (
        *("model.build", "model.build_teacher", "model.check", "model.data", "model.engine", "model.folder"),
        *("model.generations", "model.params", "model.provenance", "model.run", "model.types", "utils"),
    ),
    "model.check": (
        *("model.build", "model.folder", "model.generations", "model.params", "model.types"),
        "utils",
    ),
    "model.evaluate": (
        *("model.build", "model.engine", "model.evaluation", "model.folder", "model.generations", "model.params"),
        *("model.run", "model.types", "utils"),
    ),
    "model.generations": ("model.folder", "model.params", "utils"),
    "model.earlier": ("model.build", "model.check", "model.folder", "model.params", "utils"),
    "model.ending": ("model.engine.distributed", "model.folder", "utils"),
    "model.build": (
        *("model.data", "model.engine", "model.losses", "model.nets"),
        *("model.folder", "model.params", "model.registry", "model.types", "utils"),
    ),
    "model.build_teacher": ("model.build", "model.engine", "model.folder", "model.params", "model.types", "utils"),
    "model.methods": (
        *("model.build", "model.losses", "model.params", "model.registry", "model.report", "model.schema"),
        *("model.types", "utils"),
    ),
    "model.benchmark": ("model.params", "model.report", "utils"),
    "model.schema": ("model.build", "model.params", "model.registry", "utils"),
    "model.networks": ("model.evaluation", "model.nets", "model.params", "model.registry", "model.types", "utils"),
    # the parts, handed to one another as objects
    "model.nets": ("model.registry", "model.types", "utils"),
    "model.losses": ("model.randomness", "model.registry", "model.types", "utils"),
    "model.data": ("model.randomness", "model.registry", "model.types", "utils"),
    "model.engine": ("model.folder", "model.randomness", "model.registry", "model.types", "utils"),
    "model.evaluation": ("model.engine.means", "model.engine.precision", "model.types"),
    # what looks at folders and JSON only
    "model.search": ("model.folder", "model.legacy", "model.params", "utils"),
    "model.report": ("model.folder", "model.legacy", "model.params", "model.search.space", "utils"),
    # the ground
    "model.folder": ("model.params", "utils"),
    "model.params": ("model.legacy", "utils"),
    "model.legacy": ("utils",),
    "model.provenance": ("model.params",),
    "model.registry": ("model.types", "utils"),
    "model.randomness": (),
    "model.types": (),
    "utils": (),
}

WITHOUT_TORCH = ("model.search", "model.report", "model.folder", "model.params", "model.legacy")


def name_of(file: Path) -> str:
    """model/nets/cnn.py -> model.nets.cnn, model/nets/__init__.py -> model.nets."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(file): file for file in (*ROOT.glob("*.py"), *(ROOT / "model").rglob("*.py"))}


def belongs(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def part_of(module: str) -> str:
    """The part that a module belongs to."""
    return max((part for part in ARROWS if belongs(module, part)), key=len)


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import; `from model import build` imports model.build."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where things come from"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in FILES else str(node.module)


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in {name.partition(".")[0] for name in FILES}


def wrong_arrows(module: str, source: str) -> list[str]:
    part = part_of(module)
    return [
        f"{module}, line {line}: {part} may not import {target}"
        for line, target in imports(source)
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


@pytest.mark.parametrize("module", sorted(name for name in FILES if name != "model" and part_of(name) in WITHOUT_TORCH))
def test_what_looks_at_folders_does_not_import_torch(module: str) -> None:
    imported = {target.partition(".")[0] for _, target in imports(FILES[module].read_text(encoding="utf-8"))}

    assert not imported & {"torch", "torchvision"}


def test_what_looks_at_folders_runs_without_torch() -> None:
    modules = [name for name in FILES if name != "model" and part_of(name) in (*WITHOUT_TORCH, "utils")]
    modules += ["search_hyperparams", "synthesize_results"]
    script = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


WRONG = {
    "a loss that asks for a network": ("model.losses.at", "from model.nets.cnn import CNN"),
    "a network that asks for a data set": ("model.nets.cnn", "import model.data"),
    "the engine that builds": ("model.engine.trainer", "def fit():\n    from model import build"),
    "a report that trains": ("model.report.tables", "from model.engine import trainer"),
    "anything that imports a script": ("model.run", "import train"),
}


@pytest.mark.parametrize(("module", "source"), WRONG.values(), ids=WRONG.keys())
def test_the_rules_find(module: str, source: str) -> None:
    assert len(wrong_arrows(module, source)) == 1
