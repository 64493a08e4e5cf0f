"""Parts of the student that are not trained: their parameters stay as they are, and their modules in eval mode."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..errors import OptionError, did_you_mean, preview
from .network import ImageShape, find_classifier

Frozen = list[str] | Literal["all_but_classifier"]


def freeze(student: nn.Module, frozen: Frozen, image_shape: ImageShape) -> list[nn.Module]:
    """Exclude the parameters of some modules from training; returns the modules that stay in eval mode.

    Args:
        frozen: Names of modules or parameters, each with all that is inside; or all but the layer that computes the
            logits.

    Raises:
        OptionError: There is no such module, no such layer, or nothing is left to train.
    """
    if not frozen:
        return []
    if frozen == "all_but_classifier":
        name = find_classifier(student, image_shape)
        if name is None:
            raise OptionError("freeze", "the student's logits are not one linear layer's output: name the modules")
        modules = [student]  # a linear layer is the same in both modes
        kept = student.get_submodule(name)
        parameters = dict(student.named_parameters()).keys() - {f"{name}.{own}" for own, _ in kept.named_parameters()}
    else:
        _refuse_unknown(student, frozen)
        modules = [module for name, module in student.named_modules() if name in frozen]
        parameters = {name for name, _ in student.named_parameters() if _is_inside(name, frozen)}
    for name in parameters:
        student.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise OptionError("freeze", "leaves no parameter of the student to train")
    return modules


def trained_share(student: nn.Module) -> str:
    """How many of the parameters are trained."""
    counts = [parameter.numel() for parameter in student.parameters() if parameter.requires_grad]
    return f"{sum(counts):,} of {sum(parameter.numel() for parameter in student.parameters()):,} parameters"


def _is_inside(name: str, prefixes: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def _refuse_unknown(student: nn.Module, prefixes: list[str]) -> None:
    known = {name: None for name, _ in (*student.named_modules(), *student.named_parameters()) if name}
    for prefix in prefixes:
        if prefix not in known:
            top = ", ".join(name for name in known if "." not in name)
            raise OptionError(
                "freeze", f"the student has no module {preview(prefix)}{did_you_mean(prefix, known)}; it has {top}"
            )
