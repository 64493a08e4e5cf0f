"""`report.html`: summary, sortable table, interactive heat map and curves, figures, and each run's parameters.

The file is self-contained. Texts that come from folders are escaped by jinja2 or set as text by page.js, and the page's
content security policy allows only the scripts of this package, so that no run's name is ever code.
"""

from __future__ import annotations

import base64
import hashlib
import io
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from ...errors import UserError
from ...files import write_text
from ...registry import FIGURES
from ..figures.style import caption, draw, save_png
from ..runs import Runs
from ..tables import make_table
from .content import page_content
from .summary import summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
INTERACTIVE = ("heat_map", "learning_curves")  # drawn by page.js from the data
STYLES = ("vendor/tabulator.min.css", "style.css")
SCRIPTS = ("vendor/echarts.min.js", "vendor/tabulator.min.js", "page.js")


def write_page(runs: Runs, command: str) -> Path:
    """Write `report.html` into the folder of the runs.

    Args:
        command: Stands at the end of the page.

    Raises:
        UserError: The folder cannot be written to.
    """
    path = runs.parent_dir / PAGE
    try:
        write_text(path, render_page(runs, command))
    except OSError as error:
        raise UserError(f"{path}: cannot write the page here ({error.strerror})") from None
    return path


def render_page(runs: Runs, command: str) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0], "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    groups = make_table(runs, by_seed=True)
    scripts = [_read(name) for name in SCRIPTS]
    names = [name for name in FIGURES.names() if name not in INTERACTIVE]
    drawn = [(name, draw(name, runs)) for name in names]
    figures = [{"caption": caption(name), "png": _png(figure)} for name, figure in drawn if figure is not None]
    return environment.get_template("template.html").render(
        title=f"Results of {runs.parent_dir}",
        summary=summary(runs, groups),
        notes=groups.notes,
        data=page_content(runs, groups),
        figures=figures,
        command=command,
        styles=[_read(name) for name in STYLES],
        scripts=scripts,
        script_hashes=[_hash(text) for text in scripts],
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A script as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    save_png(figure, file)
    return base64.b64encode(file.getvalue()).decode()
