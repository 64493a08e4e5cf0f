"""Which images a network has seen in training: its own, and those of the networks that it learnt or started from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..types import Split
from .weights import WeightsFile

if TYPE_CHECKING:
    from .experiment import Experiment

Hashes = NDArray[np.uint64]
HELD_OUT: tuple[Split, ...] = ("val", "test")


def seen_images(experiment: Experiment, sources: Sequence[WeightsFile]) -> Hashes:
    """Hashes of all images that a run's weights are made of, sorted, without duplicates.

    Args:
        sources: The weights that the run learns or starts from.
    """
    others = [file.seen for file in sources]
    own = experiment.data.image_hashes("train")
    return np.unique(np.concatenate([own, *(seen for seen in others if seen is not None)]))


def seen_by(experiment: Experiment) -> Hashes | None:
    """Hashes of the images that a folder's weights have seen, or will have once it is trained; None if unknown.

    A weights file that does not say so, as a published one, is taken to be trained as the folder's params.json says.
    """
    if experiment.is_trained:
        seen = experiment.read_weights("best").seen
        if seen is not None:
            return seen
    parts = [seen_by(other) for other in experiment.dependencies]
    if not experiment.source.is_ready():
        return None
    parts.append(experiment.data.image_hashes("train"))
    experiment.close()
    return np.concatenate([part for part in parts if part is not None])


def held_out_seen(experiment: Experiment, seen: Hashes | None) -> dict[str, int] | None:
    """How many images of val and of test are among those that some weights have seen; None if that is unknown.

    Those that are also among the run's own training images are not counted.
    """
    if seen is None:
        return None
    only_seen = np.setdiff1d(seen, experiment.data.image_hashes("train"))
    return {split: int(np.isin(experiment.data.image_hashes(split), only_seen).sum()) for split in HELD_OUT}


def describe_seen(experiment: Experiment, counts: dict[str, int] | None) -> str:
    """What `held_out_seen` means for a run's results; empty where nothing held out has been seen."""
    if counts is None:
        return "does not say which images it has seen in training: accuracy on val may flatter"
    flattered = [split for split in HELD_OUT if counts[split]]
    if not flattered:
        return ""
    found = [f"{counts[split]:,} of the {experiment.data.size(split):,} images of {split}" for split in flattered]
    return f"has seen {' and '.join(found)} in training: accuracy on {' and '.join(flattered)} flatters"
