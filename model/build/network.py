"""Networks by their options: to be trained, to load weights into, or for the shapes of their outputs alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..config.params import Component
from ..errors import option_scope
from ..nets.construct import classifier_name, construct
from ..types import Output

ImageShape = tuple[int, int, int]  # C, H, W


def build_network(student: Component, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """A network with fresh weights, drawn by torch's generator, or with published ones with the option `pretrained`.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
    """
    channels, height, _ = image_shape
    with option_scope("student"):
        return construct(
            student.name,
            num_classes=num_classes,
            in_channels=channels,
            image_size=height,
            options=student.options,
        )


def output_shapes(
    student: Component, num_classes: int, image_shape: ImageShape, num_images: int, *, training: bool = False
) -> Output:
    """The output of a network for a number of images, on the meta device: nothing is allocated and nothing drawn.

    Raises:
        OptionError: An option is wrong, or published weights cannot be fetched.
        RuntimeError, ValueError, AssertionError: The network cannot be used for such images.
    """
    options = json.dumps(student.options, sort_keys=True)
    return _output_shapes(student.name, options, num_classes, tuple(image_shape), num_images, training)


@functools.lru_cache(maxsize=256)  # hundreds of trials of a search have the same few networks
@torch.no_grad()
def _output_shapes(
    name: str, options: str, num_classes: int, image_shape: ImageShape, num_images: int, training: bool
) -> Output:
    student = Component(name=name, **json.loads(options))
    with torch.device("meta"):
        net = build_network(student, num_classes, image_shape).train(training)
        output: Output = net(torch.empty(num_images, *image_shape))
    return output


def classifier_of(net: nn.Module, image_shape: ImageShape, state: dict[str, Tensor] | None) -> nn.Linear | None:
    """The linear layer that computes the logits of a network on the meta device, frozen; None where there is no such.

    Args:
        state: The network's weights; without them, the layer's are random.
    """
    name = find_classifier(net, image_shape)
    if name is None:
        return None
    classifier = cast(nn.Linear, net.get_submodule(name)).to_empty(device="cpu")
    if state is None:
        classifier.reset_parameters()
    else:
        classifier.load_state_dict({key: state[f"{name}.{key}"] for key in classifier.state_dict()})
    return classifier.requires_grad_(False)


def find_classifier(net: nn.Module, image_shape: ImageShape) -> str | None:
    """The name of the linear layer that computes a network's logits; None where there is no such."""
    device = next(net.parameters()).device
    with _in_eval_mode(net), device:
        return classifier_name(net, torch.zeros(2, *image_shape))


def select_classes(net: nn.Module, columns: Sequence[int], image_shape: ImageShape) -> bool:
    """Keep these classes of a network, in this order; returns False where its logits are not one linear layer's output.

    The network is then, bit for bit, one that was trained in this order. Reordering outputs may change a last bit.
    """
    if (parameter := next(net.parameters(), None)) is None:
        return False
    name = find_classifier(net, image_shape)
    with _in_eval_mode(net), torch.no_grad():
        output: Output = net(torch.zeros(2, *image_shape, device=parameter.device))
    if name is None or output.exits:
        return False
    select_rows(cast(nn.Linear, net.get_submodule(name)), columns)
    return True


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def select_rows(classifier: nn.Linear, columns: Sequence[int]) -> None:
    for parameter in classifier.parameters():
        parameter.data = parameter.data[list(columns)]
    classifier.out_features = len(columns)


def concat_embeddings(outputs: Sequence[Output]) -> Output | None:
    """The output of several teachers together: embeddings side by side; None where there is none."""
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    return Output(logits=outputs[0].logits, embedding=torch.cat([output.embedding for output in outputs], dim=1))
