"""A trained network as it is evaluated: on images as the data set normalises them, with classes in the data's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..logs import log
from ..teachers.matched import Groups, matched
from ..training.precision import to_device
from ..types import Output
from .seen import describe_seen, held_out_seen
from .weights import WeightsFile

if TYPE_CHECKING:
    from .experiment import Experiment


class RestoredNetwork(nn.Module):
    """A trained network for the images of a data set.

    Args:
        renormalise: Turns the data set's images into those that the network was trained on.
        groups: For each class of the data, the columns of the network's logits; None where they are in order.
    """

    def __init__(self, net: nn.Module, renormalise: Callable[[Tensor], Tensor], groups: Groups | None) -> None:
        super().__init__()
        self.net, self.renormalise, self.groups = net, renormalise, groups

    def forward(self, images: Tensor) -> Output:
        output: Output = self.net(self.renormalise(images))
        return output if self.groups is None else matched(output, self.groups)


def restored_network(experiment: Experiment, weights: WeightsFile) -> RestoredNetwork:
    """The experiment's network with the weights of a file, in eval mode on the runtime's device.

    What makes an accuracy doubtful is logged: other data than the weights' own run had, and images that it has seen.

    Raises:
        UserError: The weights are another network's, or its classes have other names.
    """
    device = experiment.runtime.device
    columns = experiment.columns_of(weights)
    _log_differences(experiment, weights)
    net = to_device(experiment.network(), device)
    weights.load_into(net)
    if columns is not None:
        log.info("%s: the classes of %s are put in the order of the data's", experiment.name, weights.path)
    groups = None if columns is None else [[column] for column in columns]
    return RestoredNetwork(net, weights.renormalisation(experiment.source, device), groups).eval()


def _log_differences(experiment: Experiment, weights: WeightsFile) -> None:
    """Tell where the data is not that of the weights' own run: the accuracy may not be what it seems."""
    data, source = experiment.data, experiment.source
    if changes := data.fingerprint.changes_since(weights.content.get("fingerprint", {})):
        log.warning("%s: the data is not that which the weights were trained with: %s", weights.path, changes)
    if weights.source is not None and weights.source.image_shape != source.image_shape:
        shapes = weights.source.image_shape, source.image_shape
        log.warning("%s: was trained on images of shape %s, these are %s", weights.path, *shapes)
    counts = held_out_seen(experiment, weights.seen)
    if counts is not None and (text := describe_seen(experiment, counts)):
        log.warning("%s: %s", weights.path, text)
