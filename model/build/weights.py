"""Weights files: what they hold, and whether they fit a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.params import Params
from ..errors import UserError
from ..types import DataSource, Normalisation

WEIGHTS_KEYS = ("state_dict", "model")  # of a checkpoint, with the state dict below


def weights_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in order of the names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def describe(params: Params, source: DataSource) -> dict[str, Any]:
    """What goes into a weights file beside the weights, so that it can be used without its folder."""
    return {
        "student": params.student.model_dump(),
        "dataset": params.dataset.name,
        "num_classes": len(source.class_names),
        "image_shape": list(source.image_shape),
        "mean": list(source.normalisation.mean),
        "std": list(source.normalisation.std),
    }


def normalisation_of(content: dict[str, Any], otherwise: Normalisation) -> Normalisation:
    """The normalisation that a weights file says it was trained with, in `mean` and `std` beside the weights."""
    if _weights_key(content) is None or "mean" not in content:
        return otherwise
    return Normalisation(mean=tuple(content["mean"]), std=tuple(content["std"]))


def load_weights(net: nn.Module, content: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a network, strictly.

    Raises:
        UserError: They are of another network.
    """
    net.load_state_dict(fitting_weights(net, content, path))


def state_dict_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's state dict, without the prefix that DataParallel puts before every name.

    It stands under `state_dict`, or under `model` as in RepDistiller's files, or is the whole file.

    Raises:
        UserError: It holds none.
    """
    key = _weights_key(content)
    state = content if key is None else content[key]
    if key is None and not (state and all(isinstance(value, torch.Tensor) for value in state.values())):
        held = ", ".join(map(str, content)) or "nothing"
        raise UserError(f"{path}: holds neither {' nor '.join(WEIGHTS_KEYS)} nor tensors alone, but {held}")
    if state and all(str(name).startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def load_term_states(objective: nn.Module, content: dict[str, Any], path: Path) -> None:
    """Let terms go on from what terms of the same name had learned, where a checkpoint holds that.

    Raises:
        UserError: Such a term has other parameters there.
    """
    for name, loss in objective.get_submodule("losses").named_children():
        prefix = f"losses.{name}."
        state = {
            key.removeprefix(prefix): value
            for key, value in content.get("objective", {}).items()
            if key.startswith(prefix)
        }
        if not state:
            continue
        if problem := misfit(loss.state_dict(), state):
            raise UserError(f"{path}: the loss {name} has other parameters there: {problem}")
        loss.load_state_dict(state)


def _weights_key(content: dict[str, Any]) -> str | None:
    """Under which key a checkpoint's state dict stands; None where it has none of the known ones."""
    return next((key for key in WEIGHTS_KEYS if isinstance(content.get(key), dict)), None)


def fitting_weights(net: nn.Module, content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's state dict, compared with a network, which may be on the meta device.

    Batch norms' counters of batches may be missing, as files of PyTorch before 0.4.1 have none; nothing reads them.

    Raises:
        UserError: A name is missing or too many, or a shape differs; the first of them is named.
    """
    state, own = state_dict_of(content, path), net.state_dict()
    state |= {name: own[name] for name in own if name not in state and name.endswith(".num_batches_tracked")}
    if problem := misfit(own, state):
        raise UserError(f"{path}: {problem}")
    return state


def misfit(own: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Why a state dict is not of this module: the first name that is missing or too many, or the first wrong shape."""
    missing, unknown = [name for name in own if name not in state], [name for name in state if name not in own]
    for problem, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{problem} {names[0]}{more}: not this network's weights"
    for name, tensor in own.items():
        came = state[name]
        if not isinstance(came, torch.Tensor):
            return f"{name} is a {type(came).__name__}, not a tensor"
        if came.shape != tensor.shape:
            return f"{name} has shape {tuple(came.shape)}, the network {tuple(tensor.shape)}"
    return None
