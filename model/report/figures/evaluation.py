"""The figures of one evaluation: confusion matrix and reliability diagram, beside the files of evaluate.py."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context

from ...errors import UserError
from ...files import parse_object
from .confusion import confusion_figure
from .reliability import reliability_figure
from .style import STYLE, save


def write_evaluation_figures(path: Path) -> list[Path]:
    """Draw what an evaluation file has something for.

    Args:
        path: The file, .json. Figures are named after it.

    Returns:
        The figures' paths, without .png and .svg.

    Raises:
        UserError: The folder cannot be written to.
    """
    evaluation, name = parse_object(path), path.stem.replace("_", " ")
    with rc_context(STYLE):  # type: ignore[arg-type]
        figures = {
            "confusion": confusion_figure(evaluation, name),
            "reliability": reliability_figure({name: evaluation}),
        }
    written = []
    for kind, figure in figures.items():
        if figure is None:
            continue
        written.append(path.with_name(f"{path.stem}_{kind}"))
        try:
            save(figure, written[-1])
        except OSError as error:
            raise UserError(f"{path.parent}: cannot write figures here ({error.strerror})") from None
    return written
