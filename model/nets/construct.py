"""A network by its name, whichever of a data set's sizes its function asks for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import option_scope, preview
from ..registry import NETS


def construct(name: str, *, num_classes: int, in_channels: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    """A fresh network.

    Raises:
        OptionError: There is no such network, or an option is wrong.
    """
    supplied = [num_classes, in_channels]
    if "image_size" in inspect.signature(NETS[name]).parameters:
        supplied.append(image_size)
    return cast(nn.Module, NETS.build(name, *supplied, **options))


def construct_inner(
    key: str, network: Mapping[str, Any], *, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    """A network that is part of another one, written as a student is: {"name": "resnet20"}.

    Args:
        key: The option that holds it, for messages.

    Raises:
        OptionError: There is no such network, or an option of it is wrong.
        ValueError: It has no name.
    """
    if not isinstance(network.get("name"), str):
        raise ValueError(f'{key} should be an object with "name", got {preview(network)}')
    options = {option: value for option, value in network.items() if option != "name"}
    with option_scope(key):
        return construct(
            network["name"], num_classes=num_classes, in_channels=in_channels, image_size=image_size, options=options
        )


def without_pretrained(value: Any) -> Any:
    """Options, those of networks within a network included, with nothing pretrained."""
    if isinstance(value, dict):
        return {key: False if key == "pretrained" else without_pretrained(each) for key, each in value.items()}
    return [without_pretrained(each) for each in value] if isinstance(value, list) else value


def classifier_name(net: nn.Module, images_NCHW: Tensor) -> str | None:
    """The linear layer whose result the logits are; None where it is something else.

    Args:
        images_NCHW: What to run the network on; on the meta device, shapes are enough.
    """
    said: list[tuple[str, Tensor]] = []

    def note(name: str, result: Tensor) -> None:
        said.append((name, result))

    hooks = [
        module.register_forward_hook(lambda _, __, result, name=name: note(name, result))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        logits = net(images_NCHW).logits
    for hook in hooks:
        hook.remove()
    return next((name for name, result in said if result is logits), None)
