"""Building a network by its name, with the sizes of the data set that its function takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import option_scope, preview
from ..registry import NETS


def construct(name: str, *, num_classes: int, in_channels: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    """A network with initial weights.

    Raises:
        OptionError: There is no network of this name, or an option is wrong.
    """
    sizes = [num_classes, in_channels]
    if "image_size" in inspect.signature(NETS[name]).parameters:
        sizes.append(image_size)
    return cast(nn.Module, NETS.build(name, *sizes, **options))


def construct_inner(
    key: str, network: Mapping[str, Any], *, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    """A network that is a component of another one, defined as a student is: {"name": "resnet20"}.

    Args:
        key: The option that contains it, for messages.

    Raises:
        OptionError: There is no network of this name, or an option of it is wrong.
        ValueError: The name is missing.
    """
    if not isinstance(network.get("name"), str):
        raise ValueError(f'{key} should be an object with "name", got {preview(network)}')
    options = {option: value for option, value in network.items() if option != "name"}
    with option_scope(key):
        return construct(
            network["name"], num_classes=num_classes, in_channels=in_channels, image_size=image_size, options=options
        )


def without_pretrained(options: Any) -> Any:
    """The options with `pretrained` false everywhere, also in those of inner networks."""
    if isinstance(options, dict):
        return {key: False if key == "pretrained" else without_pretrained(value) for key, value in options.items()}
    return [without_pretrained(value) for value in options] if isinstance(options, list) else options


def classifier_name(net: nn.Module, images_NCHW: Tensor) -> str | None:
    """The name of the linear layer whose output is the logits; None where no linear layer's is.

    Args:
        images_NCHW: The input to run the network on; on the meta device, shapes are enough.
    """
    linear_outputs: list[tuple[str, Tensor]] = []

    def record(name: str, output: Tensor) -> None:
        linear_outputs.append((name, output))

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        logits = net(images_NCHW).logits
    for hook in hooks:
        hook.remove()
    return next((name for name, output in linear_outputs if output is logits), None)
