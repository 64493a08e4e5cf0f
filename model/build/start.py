"""The weights that a student starts from: another folder's, or a file's; of other classes all but the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..logs import log
from .classes import have_equal_names
from .network import build_network, select_classes
from .state_dicts import mismatch
from .weights import WeightsFile

if TYPE_CHECKING:
    from .experiment import Experiment


@dataclass(frozen=True)
class Source:
    """Weights to start from, as far as they are known before they are read.

    Args:
        name: For the log.
        file: None where the folder is not trained yet.
        class_names: Those that the weights were trained for; None where that is not known.
        is_mapped: Whether a `class_map` says which class is which: then all must be there.
    """

    name: str
    file: WeightsFile | None
    class_names: tuple[str, ...] | None
    is_mapped: bool = False


def other_classes(experiment: Experiment, source: Source) -> str | None:
    """Why a student's classifier is not loaded, for the log; None where it is."""
    own, theirs = experiment.class_names, source.class_names
    if theirs is None and source.file is not None:
        count = num_classes_in(source.file.state_dict, partial(build_on_meta, experiment), len(own))
        return None if count in (None, len(own)) else f"{count} classes there, {len(own)} here"
    if theirs is None or source.is_mapped or have_equal_names(theirs, own):
        return None
    if len(theirs) != len(own):
        return f"{len(theirs)} classes there, {len(own)} here"
    return "the classes there have other names; class_map can tell which is which"


def check_start(experiment: Experiment, source: Source, state: Mapping[str, Tensor] | None = None) -> str | None:
    """Compare weights with the student; returns why its classifier is not loaded, None where it is.

    Args:
        state: Stands for the weights of a folder that is not trained yet, on the meta device.

    Raises:
        UserError: They are another network's.
    """
    reason = other_classes(experiment, source)
    net = _network_of(experiment, source) if reason else experiment.network_on_meta()
    if source.file is not None:
        source.file.check(net)
    elif state is not None and (problem := mismatch(net.state_dict(), state)):
        raise UserError(problem)
    return reason


def load_start(experiment: Experiment, student: nn.Module, source: Source, columns: list[int] | None) -> None:
    """Load weights into a student, and log which of them.

    Args:
        columns: For each class of the data, the column of the network's logits; None where they are in order already.

    Raises:
        UserError: They are another network's, or their classes cannot be put in order.
    """
    assert source.file is not None
    reason = other_classes(experiment, source)
    if reason is None:
        source.file.load_into(student)
        if columns is not None:
            _reorder(experiment, student, source, columns)
        return
    source.file.load_into(student, as_built=_network_of(experiment, source), without=class_parameters(experiment))
    log.info("%s: the classifier of %s is left out, its own begins anew: %s", experiment.name, source.name, reason)


def _reorder(experiment: Experiment, student: nn.Module, source: Source, columns: list[int]) -> None:
    if not select_classes(student, columns, experiment.source.image_shape):
        raise UserError(
            f"{experiment.folder.params}: init: its classes have another order, and the network has no single "
            "classifier to reorder"
        )
    log.info("%s: the classes of %s are put in this data set's order", experiment.name, source.name)


def class_parameters(experiment: Experiment) -> set[str]:
    """The names of the weights that depend on the number of classes: those of the classifier, or of several."""
    own = len(experiment.class_names)
    one, other = (_shapes(build_on_meta(experiment, count)) for count in (own, own + 1))
    return {name for name, shape in one.items() if other[name] != shape}


def num_classes_in(weights: Mapping[str, Any], build: Callable[[int], nn.Module], own: int) -> int | None:
    """For how many classes a file's weights are, as their shapes tell; None where they do not.

    Args:
        build: Makes their network for a number of classes, on the meta device.
        own: A number of classes that the network can have.
    """
    one, other = (_shapes(build(count)) for count in (own, own + 1))
    counts = set()
    for name in (name for name, shape in one.items() if other[name] != shape):
        ((axis, step),) = [(k, b - a) for k, (a, b) in enumerate(zip(one[name], other[name], strict=True)) if a != b]
        for key, value in weights.items():
            if f".{key}".endswith(f".{name}") and isinstance(value, Tensor) and value.ndim == len(one[name]):
                counts.add(own + (value.shape[axis] - one[name][axis]) // step)
    return counts.pop() if len(counts) == 1 else None


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def _network_of(experiment: Experiment, source: Source) -> nn.Module:
    """The student as it is for the classes that the weights were trained for."""
    own = len(experiment.class_names)
    count = len(source.class_names) if source.class_names is not None else None
    if count is None and source.file is not None:
        count = num_classes_in(source.file.state_dict, partial(build_on_meta, experiment), own)
    return build_on_meta(experiment, count or own)


def build_on_meta(experiment: Experiment, num_classes: int) -> nn.Module:
    with experiment.naming_params(), torch.device("meta"):
        return build_network(experiment.without_pretrained, num_classes, experiment.source.image_shape)
