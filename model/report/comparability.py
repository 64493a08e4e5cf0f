"""What makes the rows of a table incomparable: lines that stand below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .collect import LEGACY_NOTE, format_value
from .seeds import param_columns
from .table import plain

if TYPE_CHECKING:
    from pandas import DataFrame

# Parameters that say on what and how long a network is trained, and on what it is chosen; by their subject.
SUBJECTS = {
    "the data set": ("dataset",),
    "what is held out for val": ("dataset.val_size", "dataset.split_seed"),
    "the training images": ("dataset.train_fraction",),
    "augmentation": (
        "dataset.augment",
        "dataset.cutout",
        "dataset.strong_view",
        "dataset.alternating_flip",
        "dataset.views_per_image",
    ),
    "the number of epochs": ("num_epochs",),
}
OFF = {"null", "0", "false"}  # an option that is not used; an earlier version may not have had it
MAX_VALUES = 4


def incomparable(runs: DataFrame) -> list[str]:
    """A line for each reason why runs with results cannot be compared; none where they can."""
    lines = [*_differences(runs), *_changed_basis(runs)]
    seen = runs[runs["val_seen"].fillna(0).gt(0)]
    if len(seen):
        lines.append(f"Accuracy on val flatters {_rows(seen, runs)}: a teacher has seen images of val in training.")
    legacy = runs[runs["notes"].str.contains(LEGACY_NOTE, regex=False)]
    if len(legacy):
        lines.append(f"The epoch was chosen on the test images in {_rows(legacy, runs)}.")
    return lines


def _differences(runs: DataFrame) -> list[str]:
    parts = []
    for subject, paths in SUBJECTS.items():
        for path in [path for path in param_columns(runs) if path in paths or path in _paths_below(runs, paths)]:
            texts = dict.fromkeys(format_value(plain(value)) for value in runs[path])
            if len(texts) > 1 and not texts.keys() <= OFF:
                shown = ", ".join([*texts][:MAX_VALUES]) + (", ..." if len(texts) > MAX_VALUES else "")
                parts.append(f"{subject} ({path.rpartition('.')[2]} {shown})")
    return [f"Rows differ in {'; '.join(parts)}."] if parts else []


def _paths_below(runs: DataFrame, paths: Sequence[str]) -> list[str]:
    """The options of the data set, of which some change its images."""
    known = {path for subject in SUBJECTS.values() for path in subject}
    if "dataset" not in paths:
        return []
    return [path for path in param_columns(runs) if path.startswith("dataset.") and path not in known]


def _changed_basis(runs: DataFrame) -> list[str]:
    """Data or teachers of the same name, but not the same content."""
    lines = []
    for path, column, what in (
        ("dataset", "data", "the content of the data set"),
        ("teacher", "teacher_weights", "the weights of the teacher"),
    ):
        if path in runs:
            known = runs.dropna(subset=[path, column])
            names = known.groupby(path)[column].nunique()
            lines += [f"Rows differ in {what} {name}." for name in names[names > 1].index]
    return lines


def _rows(some: DataFrame, runs: DataFrame) -> str:
    return "all rows" if len(some) == len(runs) else f"{len(some)} of {len(runs)} runs"
