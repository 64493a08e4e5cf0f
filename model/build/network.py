"""Networks of an experiment, and the shapes of their outputs."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from ..config.params import Params
from ..errors import option_scope
from ..nets.construct import classifier_name, construct, without_pretrained
from ..types import DataSource, Output
from .data import build_source
from .runtime import Runtime


def build_student(params: Params, source: DataSource) -> nn.Module:
    """A network to be trained, with the data set's number of classes and channels.

    Weights are as drawn by torch's generator, or published ones where the options ask for them.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
    """
    return _network(params, source, params.student.options)


def build_network(params: Params, source: DataSource) -> nn.Module:
    """The same network for its shapes alone, or for weights that are loaded into it: none are fetched."""
    return _network(params, source, without_pretrained(params.student.options))


def _network(params: Params, source: DataSource, options: dict[str, Any]) -> nn.Module:
    return _student(params.student.name, options, len(source.class_names), source.image_shape)


def _student(name: str, options: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    channels, height, _ = image_shape
    with option_scope("student"):
        return construct(name, num_classes=num_classes, in_channels=channels, image_size=height, options=options)


def shapes_of(params: Params, place: Runtime, num_images: int) -> Output:
    """What a folder's network says of so many images: shapes only, nothing is allocated and nothing drawn."""
    return _shapes_of(
        params, build_source(params, place), without_pretrained(params.student.options), num_images, False
    )


def shapes_in_training(params: Params, source: DataSource, num_images: int) -> Output:
    """What a student says in a training step, shapes only.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
        RuntimeError, ValueError, AssertionError: The network cannot be used for such images.
    """
    return _shapes_of(params, source, params.student.options, num_images, True)


def _shapes_of(params: Params, source: DataSource, options: dict[str, Any], num_images: int, training: bool) -> Output:
    written, shape = json.dumps(options, sort_keys=True), tuple(source.image_shape)
    return _shapes_said(params.student.name, written, len(source.class_names), shape, num_images, training)


@functools.lru_cache(maxsize=256)  # hundreds of runs of a search ask for the same few
@torch.no_grad()
def _shapes_said(
    name: str, options: str, num_classes: int, image_shape: tuple[int, int, int], num_images: int, training: bool
) -> Output:
    with torch.device("meta"):
        net = _student(name, json.loads(options), num_classes, image_shape)
        said: Output = net.train(training)(torch.empty(num_images, *image_shape))
    return said


def classifier_of(params: Params, place: Runtime, state: dict[str, Any] | None = None) -> nn.Linear | None:
    """The layer that makes the logits of a folder's network, frozen; None where no linear layer makes them.

    Args:
        state: The network's weights; without these, the layer's are random.
    """
    source = build_source(params, place)
    with torch.device("meta"):
        net = build_network(params, source).eval()
        name = classifier_name(net, torch.empty(2, *source.image_shape))
    if name is None:
        return None
    classifier = cast(nn.Linear, net.get_submodule(name)).to_empty(device="cpu")
    if state is None:
        classifier.reset_parameters()
    else:
        classifier.load_state_dict({key: state[f"{name}.{key}"] for key in classifier.state_dict()})
    return classifier.requires_grad_(False)


def concat_embeddings(taught: Sequence[Output]) -> Output | None:
    """What several teachers say together: the embeddings side by side; None where there is none."""
    if len(taught) < 2:
        return taught[0] if taught else None
    return Output(logits=taught[0].logits, embedding=torch.cat([each.embedding for each in taught], dim=1))
