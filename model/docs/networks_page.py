"""The table of networks in docs/networks.md, made from the code.

    python -m model.docs.networks      writes it into the page

Parameters, multiply-accumulates and maps are counted on the meta device; where a network comes from stands in the head
comment of its file.
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
from ..files import replace_section, write_text
from ..home import ROOT
from ..registry import NETS
from ..types import Output

PAGE = ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- made by python -m model.docs.networks -->\n", "<!-- to here -->\n"

# Classes and image of what is not made for 32x32.
COUNTED_WITH: dict[str, tuple[int, tuple[int, int, int]]] = {
    "model.nets.mlp": (10, (1, 28, 28)),
    "model.nets.resnet_imagenet": (1000, (3, 224, 224)),
}
OTHERWISE = (100, (3, 32, 32))


class Row(NamedTuple):
    """A network, in the order of the table: those of one file together, small to large."""

    file: str
    cost: Cost
    name: str
    num_maps: int


def row(name: str) -> Row:
    file = NETS[name].__module__
    num_classes, image_shape = COUNTED_WITH.get(file, OTHERWISE)
    has_image_size = "image_size" in signature(NETS[name]).parameters
    with torch.device("meta"):
        net = NETS.build(name, num_classes, *image_shape[: 2 if has_image_size else 1])
    said: list[Output] = []
    net.register_forward_hook(lambda _, __, output: said.append(output))
    return Row(file, cost(net, image_shape), name, len(said[0].maps))


def table() -> str:
    """The table in Markdown."""
    cells = []
    for file, (parameters, macs), name, num_maps in sorted(row(name) for name in NETS.names()):
        num_classes, (channels, height, width) = COUNTED_WITH.get(file, OTHERWISE)
        counted = f"{channels} x {height} x {width}, {num_classes}"
        cells.append((f"`{name}`", f"{parameters:,}", f"{macs / 1e6:,.1f} M", num_maps, counted, origin(file)))
    headers = ("name", "parameters", "MACs", "maps", "image, classes", "from")
    alignment = ("left", "right", "right", "right", "left", "left")
    return f"{tabulate(cells, headers, tablefmt='pipe', colalign=alignment, disable_numparse=True)}\n"


def origin(file: str) -> str:
    """The paper that a file's head comment names, or the project, as a link where it gives one."""
    comment = " ".join((sys.modules[file].__doc__ or "").split())
    title, address = re.search(r'"([^"]+)"', comment), re.search(r"https://\S+\w", comment)
    shown = title[1].rstrip(",") if title else address[0].removeprefix("https://") if address else file
    return f"[{shown}]({address[0]})" if address else shown


def page(text: str) -> str:
    """The page's text with the table as the code gives it."""
    return replace_section(text, BEGIN, END, table())


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))
    print(f"written: {PAGE.relative_to(ROOT)}")
