"""The page on all loss terms, docs/methods.md, made from the code.

    python -m model.docs.methods_page     writes it

A term's text is the docstring of its file; options and defaults come from its signature; the parameters that it adds
are counted. The time of a step was measured by benchmarks/losses.py, and published accuracies are those in the
CIFAR-100 benchmark's published.json.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, cast

import torch
from torch import nn

from .. import build  # fills the registries
from ..files import read_json
from ..losses.base import DistillLoss
from ..registry import LOSSES, NETS
from ..report.published import PublishedResult, read_published
from ..types import LossContext, Output
from . import REPOSITORY
from .docstrings import argument_texts, module_docstring, with_code_blocks
from .pages import GeneratedPage, markdown_table

COSTS_FILE = REPOSITORY / "benchmarks" / "losses.json"
BENCHMARK = REPOSITORY / "experiments" / "cifar100_benchmark" / "methods"
STUDENT, TEACHER = "resnet8x4", "resnet32x4"

HEAD = f"""# Loss terms

Generated from the code by `make docs`. `"loss": {{"ce": {{}}, "at": {{}}}}` is a sum of two terms with their default
options, which are the settings that were published for CIFAR-100. Every term also has `weight`, its factor in the sum,
and `warmup_epochs`, the epochs over which that factor rises from 0.

- *Reads*: the parts of the teacher's output that the term reads. All but maps are cached
  ([teacher_cache.md](teacher_cache.md)). `classifier` is the teacher's last layer, from embedding to logits.
- *Batch*: what the term is computed on in a run of several processes, the *global* batch or each process's *shard*
  ([distributed.md](distributed.md)).
- *Parameters*: the trained parameters that the term adds where a {STUDENT} learns CIFAR-100 from a {TEACHER}. They are
  not part of the trained network. *Buffers*: the other numbers that it keeps from step to step.
- *Step*: the duration of a training step with the term alone, relative to one with `kd`: forward and backward pass of a
  {STUDENT}, the term and the optimizer, 64 images, without the teacher's forward pass; two students for `mutual` and
  `self_distillation`. Measured on a CPU by `python -m benchmarks.losses`, accurate to about a tenth.

Published accuracies are in percent of CIFAR-100's test images; [cifar100.md](cifar100.md) has their protocols and the
commands.
"""


def page_text() -> str:
    return "\n".join([HEAD, *summary_table(), *(section(name) for name in LOSSES.names())])


def summary_table() -> list[str]:
    headers = ("term", "name", "reads", "batch", "weight", "warm-up", "parameters", "buffers", "step")
    step_ratios: dict[str, float] = read_json(COSTS_FILE)["ratios"]
    rows = []
    for name in LOSSES.names():
        title = re.split("[:.\n]", module_docstring(LOSSES[name]))[0]
        loss = cast(DistillLoss, LOSSES.build(name))
        reads = ", ".join(sorted(loss.needs)) or "-"
        options = LOSSES.options(name)
        num_parameters, num_buffers = count_added(name)
        rows.append(
            (
                *(f"[{name}](#{name})", title, reads, "global" if loss.global_batch else "shard"),
                *(f"{options[key].default:g}" for key in ("weight", "warmup_epochs")),
                *(f"{num_parameters:,}", f"{num_buffers:,}", f"{step_ratios.get(name, '-')}"),
            )
        )
    return markdown_table(headers, rows)


def section(name: str) -> str:
    """A term's heading, text, options and published accuracies."""
    lines = [f"## {name}", "", with_code_blocks(module_docstring(LOSSES[name])), ""]
    texts = argument_texts(LOSSES[name])
    options = [
        (f"`{key}`", f"`{json.dumps(option.default)}`", texts.get(key, ""))
        for key, option in LOSSES.options(name).items()
        if key not in ("weight", "warmup_epochs")
    ]
    if options:
        lines += markdown_table(("option", "default", "meaning"), options)
    return "\n".join([*lines, *published_accuracies(name)])


def published_accuracies(name: str) -> list[str]:
    """An item per source, for methods of the benchmark whose last term this is."""
    choices = read_json(BENCHMARK / "search.json")["parameters"]["method"]["choices"]
    losses: dict[str, dict[str, Any]] = {method: choice["loss"] for method, choice in choices.items()}
    results = [
        result for result in read_published(BENCHMARK) if list(losses.get(result.method, [result.method]))[-1] == name
    ]
    return [*(published_item(result, losses.get(result.method)) for result in results), ""] if results else []


def published_item(result: PublishedResult, loss: dict[str, Any] | None) -> str:
    settings = f"`{json.dumps(loss)}`" if loss else "in two stages"
    accuracies = ", ".join(f"{pair.replace('-', ' ')} {percent:.2f}" for pair, percent in result.accuracies.items())
    return f"- Published by {result.source}, here {settings}: {accuracies}"


def count_added(name: str) -> tuple[int, int]:
    """How many trained parameters, and how many other saved numbers, a term owns."""
    loss = cast(DistillLoss, LOSSES.build(name))
    student, teacher = output_shapes(STUDENT), output_shapes(TEACHER)
    classifier, labels_M = classifier_for(teacher), torch.arange(50_000) % 100
    loss.prepare(LossContext(student=student, teacher=teacher, labels=labels_M, seed=0, classifier=classifier))
    num_parameters = sum(parameter.numel() for parameter in loss.parameters())
    return num_parameters, sum(tensor.numel() for tensor in loss.state_dict().values()) - num_parameters


@functools.cache  # the same two networks for every term
def output_shapes(net: str, num_images: int = 2) -> Output:
    with torch.device("meta"):
        output: Output = NETS.build(net, 100, 3)(torch.empty(num_images, 3, 32, 32))
    return output


def classifier_for(teacher: Output) -> nn.Linear:
    """A layer of the shape of a teacher's classifier."""
    return nn.Linear(teacher.embedding.shape[1], teacher.logits.shape[1])


PAGE = GeneratedPage("methods.md", page_text)

if __name__ == "__main__":
    PAGE.write()
