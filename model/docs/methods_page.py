"""The page on all loss terms, made from the code.

    python -m model.docs.methods     writes docs/methods.md

A method's text is its file's docstring, options and defaults come from the signature, and what a term adds is counted.
What a step costs was measured by benchmarks/losses.py, and what others published is the CIFAR-100 benchmark's file.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from typing import cast

import torch
from torch import nn

from .. import build  # fills the registries
from ..files import read_json, write_text
from ..home import ROOT
from ..losses.base import DistillLoss
from ..registry import LOSSES, NETS
from ..report.published import PublishedResult, read_published
from ..types import LossContext, Output
from .params_schema import arguments

METHODS_FILE = ROOT / "docs" / "methods.md"
COSTS_FILE = ROOT / "benchmarks" / "losses.json"
BENCHMARK = ROOT / "experiments" / "cifar100_benchmark" / "methods"
STUDENT, TEACHER = "resnet8x4", "resnet32x4"

HEAD = f"""# Loss terms

Made from the code by `python -m model.docs.methods`. `"loss": {{"ce": {{}}, "at": {{}}}}` is a sum of two terms with
their defaults, which are the settings that were published for CIFAR-100. Every term also has `weight`, its factor in
the sum, and `warmup_epochs`, over which that rises from 0.

*Reads* is what a term reads of the teacher; all but maps is computed only once ([teacher_cache.md](teacher_cache.md)).
`classifier` is the layer that makes its logits.
*Parameters* are those that a term adds where a {STUDENT} learns CIFAR-100 from a {TEACHER}, *kept* the other numbers
that it keeps from step to step. None of them is part of the trained network.
*Step* is the time of a training step with the term alone, relative to one with `kd`: forward and backward of a
{STUDENT}, the term and the optimizer, 64 images, without the teacher's forward pass; two students for `mutual` and
`self_distillation`. It was measured on a CPU by `python -m benchmarks.losses`, and is good to about a tenth.

Published accuracies are of CIFAR-100's test images, in percent; [cifar100.md](cifar100.md) says by which protocol, and
has the commands.
"""


def text() -> str:
    """The page as it stands in its file."""
    return "\n".join([HEAD, *table(), *(section(name) for name in LOSSES.names())])


def table() -> list[str]:
    rows = ["| term | | reads | weight | warm-up | parameters | kept | step |", "|---|---|---|---|---|---|---|---|"]
    ratios = read_json(COSTS_FILE)["ratios"]
    for name in LOSSES.names():
        method = LOSSES[name]
        reads = ", ".join(sorted(method().needs)) or "-"
        title = re.split("[:.\n]", inspect.getdoc(inspect.getmodule(method)) or "")[0]
        options = LOSSES.options(name)
        parameters, kept = added(name)
        rows.append(
            f"| [{name}](#{name}) | {title} | {reads} | {options['weight'].default:g} "
            f"| {options['warmup_epochs'].default:g} | {parameters:,} | {kept:,} "
            f"| {ratios.get(name, '-')} |"
        )
    return [*rows, ""]


def section(name: str) -> str:
    """A method's heading, text and options."""
    method = LOSSES[name]
    lines = [f"## {name}", "", in_markdown(inspect.getdoc(inspect.getmodule(method)) or ""), ""]
    told = arguments(method)
    own = {key: each for key, each in LOSSES.options(name).items() if key not in ("weight", "warmup_epochs")}
    if own:
        lines += ["| option | default | |", "|---|---|---|"]
        lines += [f"| `{key}` | `{json.dumps(each.default)}` | {told.get(key, '')} |" for key, each in own.items()]
        lines.append("")
    return "\n".join([*lines, *published(name)])


def published(name: str) -> list[str]:
    """What others published for methods of the benchmark whose last term this is, an item for each source."""
    choices = read_json(BENCHMARK / "search.json")["parameters"]["method"]["choices"]
    losses = {method: choice["loss"] for method, choice in choices.items()}
    rows = [row for row in read_published(BENCHMARK) if list(losses.get(row.method, [row.method]))[-1] == name]
    return [*(_item(row, losses.get(row.method)) for row in rows), ""] if rows else []


def _item(row: PublishedResult, loss: dict[str, dict[str, object]] | None) -> str:
    settings = f"`{json.dumps(loss)}`" if loss else "in two stages"
    accuracies = ", ".join(f"{pair.replace('-', ' ')} {percent:.2f}" for pair, percent in row.accuracies.items())
    return f"- Published by {row.source}, here {settings}: {accuracies}"


def in_markdown(docstring: str) -> str:
    """A docstring whose indented lines, which are formulas, stand in blocks of their own."""
    return re.sub(
        r"(?:^    .*\n?)+", lambda found: f"\n```\n{inspect.cleandoc(found[0])}\n```\n\n", docstring, flags=re.M
    )


def added(name: str) -> tuple[int, int]:
    """Numbers that a term owns: those that are trained, and the others that are saved with them."""
    loss = cast(DistillLoss, LOSSES.build(name))
    student, teacher = shapes(STUDENT), shapes(TEACHER)
    classifier, labels_M = classifier_for(teacher), torch.arange(50_000) % 100
    loss.prepare(LossContext(student=student, teacher=teacher, labels=labels_M, seed=0, classifier=classifier))
    trained = sum(parameter.numel() for parameter in loss.parameters())
    return trained, sum(tensor.numel() for tensor in loss.state_dict().values()) - trained


@functools.cache  # every method asks for the same two networks
def shapes(net: str, num_images: int = 2) -> Output:
    with torch.device("meta"):
        said: Output = NETS.build(net, 100, 3)(torch.empty(num_images, 3, 32, 32))
    return said


def classifier_for(teacher: Output) -> nn.Linear:
    """A layer of the shape of a teacher's classifier."""
    return nn.Linear(teacher.embedding.shape[1], teacher.logits.shape[1])


if __name__ == "__main__":
    write_text(METHODS_FILE, text())
    print(f"written: {METHODS_FILE.relative_to(ROOT)}")
