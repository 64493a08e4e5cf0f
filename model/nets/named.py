"""A network by its name, whichever of a data set's sizes its function asks for."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn

from model.registry import NETS


def named(name: str, *, num_classes: int, in_channels: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    """A fresh network.

    Raises:
        OptionError: There is no such network, or an option is wrong.
    """
    supplied = [num_classes, in_channels]
    if "image_size" in inspect.signature(NETS[name]).parameters:
        supplied.append(image_size)
    return cast(nn.Module, NETS.build(name, *supplied, **options))
