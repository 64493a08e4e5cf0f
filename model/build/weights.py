"""Weights files: best.pth.tar, last.pth.tar, and those that others published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import UserError
from ..training.checkpoint import load_checkpoint
from ..training.step import TrainingObjective
from ..types import Normalisation

STATE_DICT_KEYS = ("state_dict", "model")  # of a file's content


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    The state dict is the file's `state_dict`, its `model` as in RepDistiller's files, or the whole file.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> WeightsFile:
        """Read a file onto the CPU.

        Raises:
            UserError: It is missing, cut short, or holds more than tensors and plain values.
        """
        return cls(path, load_checkpoint(path))

    @cached_property
    def state_dict(self) -> dict[str, Any]:
        """Without the prefix that DataParallel puts before every name.

        Raises:
            UserError: The file holds none.
        """
        state = self.content if self._key is None else self.content[self._key]
        if self._key is None and not (state and all(isinstance(value, Tensor) for value in state.values())):
            keys = ", ".join(map(str, self.content)) or "nothing"
            raise UserError(f"{self.path}: holds neither {' nor '.join(STATE_DICT_KEYS)} nor tensors alone, but {keys}")
        if state and all(str(name).startswith("module.") for name in state):
            return {name.removeprefix("module."): tensor for name, tensor in state.items()}
        return dict(state)

    @cached_property
    def digest(self) -> str:
        return weights_digest(self.state_dict)

    @property
    def epoch(self) -> Any:
        return self.content.get("epoch")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the network's classes; None where the file does not have them."""
        names = self.content.get("class_names")
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    @property
    def source(self) -> TrainedSource | None:
        """The data set that the network was trained on, as the file describes it; None where it does not."""
        shape = self.content.get("image_shape")
        if self.class_names is None or not isinstance(shape, list) or self._key is None or "mean" not in self.content:
            return None
        channels, height, width = shape
        normalisation = self.normalisation(Normalisation(mean=(), std=()))
        return TrainedSource(self.class_names, (channels, height, width), normalisation, self.path)

    @property
    def seen(self) -> NDArray[np.uint64] | None:
        """Hashes of the images that the weights have been trained on; None where the file does not have them."""
        seen = self.content.get("seen")
        return seen.numpy().view(np.uint64) if isinstance(seen, Tensor) else None

    def normalisation(self, default: Normalisation) -> Normalisation:
        """The normalisation of the images that the network was trained on, where the file has `mean` and `std`."""
        if self._key is None or "mean" not in self.content:
            return default
        return Normalisation(mean=tuple(self.content["mean"]), std=tuple(self.content["std"]))

    def check(self, net: nn.Module) -> None:
        """Compare names and shapes with a network, which may be on the meta device.

        Raises:
            UserError: A name is missing or unknown, or a shape differs; the first of them is named.
        """
        self._state_dict_for(net)

    def load_into(self, net: nn.Module) -> None:
        """Load the weights into a network, strictly.

        Raises:
            UserError: They are another network's.
        """
        net.load_state_dict(self._state_dict_for(net))

    def load_terms_into(self, objective: TrainingObjective) -> None:
        """Load what loss terms of the same names had learned, where the file holds that.

        Raises:
            UserError: Such a term has other parameters in the file.
        """
        state = objective.state_dict()
        for name in objective.names:
            own, learned = (_of_term(name, each) for each in (state, self.content.get("objective", {})))
            if not learned:
                continue
            if problem := mismatch(own, learned):
                raise UserError(f"{self.path}: the loss {name} has other parameters in this file: {problem}")
            state |= {f"losses.{name}.{key}": value for key, value in learned.items()}
        objective.load_state_dict(state)

    @property
    def _key(self) -> str | None:
        """Under which key the state dict is; None where the content has none of the known ones."""
        return next((key for key in STATE_DICT_KEYS if isinstance(self.content.get(key), dict)), None)

    def _state_dict_for(self, net: nn.Module) -> dict[str, Any]:
        state, expected = dict(self.state_dict), net.state_dict()
        # Files of PyTorch before 0.4.1 have no counters of batches, and nothing reads them.
        counters = [name for name in expected if name not in state and name.endswith(".num_batches_tracked")]
        state |= {name: expected[name] for name in counters}
        if problem := mismatch(expected, state):
            raise UserError(f"{self.path}: {problem}")
        return state


@dataclass(frozen=True)
class TrainedSource:
    """What a weights file says of the data set that its network was trained on: all but the images."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    path: Path

    @property
    def preprocess(self) -> NoReturn:
        raise UserError(f"{self.path}: a weights file does not say how images are resized")

    def is_ready(self) -> bool:
        return False

    def open(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError(f"{self.path}: a weights file has no images")


def mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> str | None:
    """Why a state dict is not a module's: the first missing or unknown name, or the first wrong shape; else None."""
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    for problem, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{problem} {names[0]}{more}: not this network's weights"
    for name, tensor in expected.items():
        value = state[name]
        if not isinstance(value, Tensor):
            return f"{name} is a {type(value).__name__}, not a tensor"
        if value.shape != tensor.shape:
            return f"{name} has shape {tuple(value.shape)}, the network {tuple(tensor.shape)}"
    return None


def _of_term(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an objective's state dict that belongs to one term."""
    prefix = f"losses.{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in order of the names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
