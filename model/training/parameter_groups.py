"""Parameter groups of an optimizer: learning rates by depth, one of the classifier's own, no decay of norms and biases.

Layer-wise learning rate decay: Clark et al., "ELECTRA", ICLR 2020, sec. 3.1; Bao et al., "BEiT", ICLR 2022, as timm's
`layer_decay`. https://arxiv.org/abs/2003.10555
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..types import OptimizerOptions

PLAIN = (1.0, None, True)  # factor of the learning rate, or a rate, and whether weight decay applies
LISTS = (nn.Sequential, nn.ModuleList)  # a subclass of them is one layer, unless it is a stack


def parameter_groups(
    student: nn.Module, others: Iterable[nn.Parameter], classifier: nn.Module | None, options: OptimizerOptions
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """The parameters that are trained: a list where all are treated alike, else groups for `set_rates`.

    Args:
        others: The parameters of loss terms, which have the plain learning rate and weight decay.
        classifier: The layer that computes the logits; None where there is no such, or its rate is that of its depth.

    Raises:
        ValueError: The classifier, for which a learning rate is given, is missing or not trained.
    """
    rate = options.classifier_learning_rate
    own = {id(each) for each in classifier.parameters() if each.requires_grad} if classifier is not None else set()
    if rate is not None and not own:
        raise ValueError("classifier_learning_rate is for a classifier that is one linear layer, and trained")
    depths = layer_depths(student)
    last = max(depths.values(), default=0)
    groups: dict[tuple[float, float | None, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        own_rate = rate if id(parameter) in own else None
        scale = options.layer_decay ** (last - depths[name]) if own_rate is None else 1.0
        decays = options.decay_norms_and_biases or not _is_norm_or_bias(name, parameter)
        groups.setdefault((scale, own_rate, decays), []).append(parameter)
    groups.setdefault(PLAIN, []).extend(others)
    trained = {key: [each for each in parameters if each.requires_grad] for key, parameters in groups.items()}
    if not any(parameters for key, parameters in trained.items() if key != PLAIN):
        return trained[PLAIN]
    # The learning rate that is logged is that of the first group: the one closest to the plain rate.
    return [
        {"params": parameters, "scale": scale, "rate": own_rate, **({} if decays else {"weight_decay": 0.0})}
        for (scale, own_rate, decays), parameters in sorted(
            trained.items(), key=lambda item: (item[0][1] is not None, -item[0][0])
        )
        if parameters
    ]


def set_rates(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give the groups of `parameter_groups` their learning rates."""
    for group in optimizer.param_groups:
        scale, rate = group.pop("scale", 1.0), group.pop("rate", None)
        group["lr"] = group["lr"] * scale if rate is None else rate
    return optimizer


def layer_depths(net: nn.Module) -> dict[str, int]:
    """The depth of the layer that each parameter belongs to, 0 at the images.

    Layers are the network's modules in the order in which they are registered; in place of a Sequential or ModuleList
    its elements, and in place of a module that contains a stack of equal blocks, as a transformer's encoder does, its
    modules. A layer without a matrix or convolution, such as a norm, belongs to the one before it. For ResNets and
    transformers, these are timm's layers.
    """
    depths: dict[str, int] = {}
    depth = -1
    for parameters in _layers(net):
        depth = max(0, depth + any(parameter.ndim > 1 for parameter in parameters.values()))
        depths |= dict.fromkeys(parameters, depth)
    return depths


def _layers(module: nn.Module, prefix: str = "") -> Iterator[dict[str, nn.Parameter]]:
    """The parameters of each layer by their names; with the first, those of no layer, such as a class token."""
    direct = {f"{prefix}{name}": parameter for name, parameter in module.named_parameters(recurse=False)}
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        if type(child) in LISTS or _is_stack(child) or any(map(_is_stack, child.children())):
            layers = list(_layers(child, path))
        else:
            layers = [{f"{path}{inner}": parameter for inner, parameter in child.named_parameters()}]
        for parameters in filter(None, layers):
            yield direct | parameters
            direct = {}
    if direct:
        yield direct


def _is_stack(module: nn.Module) -> bool:
    blocks = [*module.children()]
    return isinstance(module, LISTS) and len({*map(type, blocks)}) == 1 < len(blocks)


def _is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or name.endswith(".bias")
