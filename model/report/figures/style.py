"""The look of all figures: size, fonts, colours, and the files they are written to."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ...errors import UserError
from ...registry import FIGURES
from ..runs import Runs

FIGURES_DIR = "figures"
WIDTH = 6.3  # inches: the text of an A4 page, with 9-point fonts
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Okabe and Ito's, which are told apart with any kind of colour vision. https://jfly.uni-koeln.de/color/"""

MUTED = "#555555"
LINE_LENGTH = 34  # of names beside an axis
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a name with two dollars is a name
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "svg.hashsalt": "retort",  # equal figures are equal files
    "svg.fonttype": "none",  # text stays text
}


def new_figure(height: float = 3.4, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def headline(figure: Figure, text: str) -> None:
    """A line above a figure, over its whole width: axes with long labels are too narrow for one of their own."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])


def printable(text: str) -> str:
    """A text without what fonts cannot have: the bytes of a file's name that are no Unicode are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def wrapped(name: str) -> str:
    """A long name in several lines, broken before its separators where it has some."""
    parts, lines = re.findall(rf"[_/]?[^_/]{{0,{LINE_LENGTH}}}", printable(name)), [""]
    for part in parts:
        if lines[-1] and len(lines[-1] + part) > LINE_LENGTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def draw(name: str, runs: Runs, **options: Any) -> Figure | None:
    """A figure by its name in the registry; None where the runs have nothing to draw.

    Raises:
        OptionError: There is no such figure, or an option is wrong.
    """
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure: Figure | None = FIGURES.build(name, runs, **options)
    return figure


def write_figures(runs: Runs) -> list[Path]:
    """Draw all figures that the runs have something for, into the sub-folder `figures` of their folder.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder = runs.parent_dir / FIGURES_DIR
    figures = {name: draw(name, runs) for name in FIGURES.names()}
    paths = [folder / name for name, figure in figures.items() if figure is not None]
    try:
        folder.mkdir(exist_ok=True)
        for path in paths:
            figure = figures[path.name]
            assert figure is not None
            save(figure, path)
    except OSError as error:
        raise UserError(f"{folder}: cannot write figures here ({error.strerror})") from None
    return paths


def caption(name: str) -> str:
    """What a figure shows: the first line of its docstring."""
    return (inspect.getdoc(FIGURES[name]) or name).splitlines()[0]


def save(figure: Figure, path: Path) -> None:
    """Write `path` with the endings .png and .svg."""
    save_png(figure, path.with_suffix(".png"))
    with _any_text(figure):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def save_png(figure: Figure, file: Path | BinaryIO) -> None:
    with _any_text(figure):
        figure.savefig(file, format="png")


@contextmanager
def _any_text(figure: Figure) -> Iterator[None]:
    """A block that saves a figure whatever its texts (those of ticks are set when it is drawn: see `printable`)."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(printable(text.get_text()))
    with rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
