"""The table of networks in docs/networks.md, made from the code.

    python -m model.docs.networks_page      writes it into the page

Parameters, multiply-accumulates and maps are counted on the meta device; where a network comes from is read from the
docstring of its file.
"""

from __future__ import annotations

import re
import sys
from inspect import signature
from typing import NamedTuple

import torch
from tabulate import tabulate

from .. import nets  # fills the registry
from ..evaluation.cost import Cost, cost
from ..registry import NETS
from ..types import Output
from .pages import PageWithGeneratedSection


class CountedFor(NamedTuple):
    num_classes: int
    image_shape: tuple[int, int, int]


DEFAULT = CountedFor(100, (3, 32, 32))
EXCEPTIONS = {  # networks of other data sets, by the file they are in
    "mlp": CountedFor(10, (1, 28, 28)),
    "resnet_imagenet": CountedFor(1000, (3, 224, 224)),
}


class Row(NamedTuple):
    """A network, in the order of the table: those of one file together, small to large."""

    module: str
    cost: Cost
    name: str
    num_maps: int


def table() -> str:
    cells = []
    for module, (parameters, macs), name, num_maps in sorted(row(name) for name in NETS.names()):
        num_classes, (channels, height, width) = counted_for(module)
        counted = f"{channels} x {height} x {width}, {num_classes}"
        cells.append((f"`{name}`", f"{parameters:,}", f"{macs / 1e6:,.1f} M", num_maps, counted, origin(module)))
    headers = ("name", "parameters", "MACs", "maps", "image, classes", "from")
    alignment = ("left", "right", "right", "right", "left", "left")
    text: str = tabulate(cells, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return text


def row(name: str) -> Row:
    module = NETS[name].__module__
    num_classes, image_shape = counted_for(module)
    has_image_size = "image_size" in signature(NETS[name]).parameters
    with torch.device("meta"):
        net = NETS.build(name, num_classes, *image_shape[: 2 if has_image_size else 1])
    outputs: list[Output] = []
    net.register_forward_hook(lambda _, __, output: outputs.append(output))
    return Row(module, cost(net, image_shape), name, len(outputs[0].maps))


def counted_for(module: str) -> CountedFor:
    return EXCEPTIONS.get(module.rpartition(".")[2], DEFAULT)


def origin(module: str) -> str:
    """The paper, or else the project, that a module's docstring names, as a link where it has an address."""
    docstring = " ".join((sys.modules[module].__doc__ or "").split())
    title, address = re.search(r'"([^"]+)"', docstring), re.search(r"https://\S+\w", docstring)
    text = title[1].rstrip(",") if title else address[0].removeprefix("https://") if address else module
    return f"[{text}]({address[0]})" if address else text


PAGE = PageWithGeneratedSection("networks.md", table)

if __name__ == "__main__":
    PAGE.write()
