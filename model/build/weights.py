"""Weights files: best.pth.tar, last.pth.tar, and those that others published."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import UserError
from ..logs import log
from ..teachers.live import Renormalisation
from ..training.checkpoint import load_checkpoint
from ..training.step import TrainingObjective
from ..types import DataSource, Normalisation
from .state_dicts import NotTheseWeights, Selection, find_weights, is_state_dict, mismatch, select

if TYPE_CHECKING:
    from ..types import ImageInput


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Its weights are the whole file, or lie under keys such as `state_dict`, `model` or `state_dict_ema`. Which of them
    are a network's, and under which prefix, the network's own names decide.
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
        """All weights with their names in the file, and where it has several state dicts, their keys before the names.

        Raises:
            UserError: The file holds none, or a tensor without values of its own.
        """
        if not (weights := find_weights(self.content)):
            keys = ", ".join([*map(str, self.content)][:10]) or "nothing"
            raise UserError(
                f"{self.path}: holds neither weights under state_dict, model, state_dict_ema or a similar key, "
                f"nor tensors alone, but {keys}"
            )
        for name, value in weights.items():
            if isinstance(value, Tensor) and (value.is_meta or value.is_quantized or value.layout != torch.strided):
                kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
                raise UserError(f"{self.path}: {name} is a {kind} tensor, which is not loaded")
        return weights

    @cached_property
    def digest(self) -> str:
        """Of all weights; the prefix of DataParallel makes no difference."""
        tensors = {name: value for name, value in self.state_dict.items() if isinstance(value, Tensor)}
        is_parallel = all(name.startswith("module.") for name in tensors)
        return weights_digest(
            {name.removeprefix("module.") if is_parallel else name: value for name, value in tensors.items()}
        )

    @property
    def epoch(self) -> int | float | None:
        """After which epoch the weights were saved, where the file has such a number."""
        epoch = self.content.get("epoch")
        if isinstance(epoch, Tensor) and epoch.numel() == 1:
            epoch = epoch.item()
        return epoch if isinstance(epoch, int | float) else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the network's classes; None where the file does not have them."""
        names = self.content.get("class_names")
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    @property
    def source(self) -> TrainedSource | None:
        """The data set that the network was trained on, as the file describes it; None where it does not."""
        shape = self.content.get("image_shape")
        if self.class_names is None or not isinstance(shape, list) or "mean" not in self.content:
            return None
        channels, height, width = shape
        normalisation = self.normalisation(Normalisation(mean=(0.0,) * channels, std=(1.0,) * channels))
        return TrainedSource(self.class_names, (channels, height, width), normalisation, self.path)

    @property
    def seen(self) -> NDArray[np.uint64] | None:
        """Hashes of the images that the weights have been trained on; None where the file does not have them."""
        seen = self.content.get("seen")
        return seen.numpy().view(np.uint64) if isinstance(seen, Tensor) else None

    def normalisation(self, default: Normalisation) -> Normalisation:
        """The normalisation of the images that the network was trained on, where the file has `mean` and `std`.

        Raises:
            UserError: One of them is missing, or is not a number for each channel of the default.
        """
        if is_state_dict(self.content) or not self.content.keys() & {"mean", "std"}:
            return default
        mean, std = (self._channel_statistics(key, len(default.mean)) for key in ("mean", "std"))
        if (mean, std) == (default.mean, default.std):
            return default
        if min(std) <= 0:
            raise UserError(f"{self.path}: std must be positive, got {list(std)}")
        if min(mean) >= 0 and max(*mean, *std) <= 1:
            return Normalisation(mean=mean, std=std)
        # Only a mean of 0 says nothing of its scale.
        if min(mean) < 0 or max(std) < 1 or 0 < max(mean) <= 1 or max(*mean, *std) > 255:
            raise UserError(
                f"{self.path}: mean and std are neither of images in 0..1 nor of images in 0..255, "
                f"got {list(mean)} and {list(std)}"
            )
        scaled = Normalisation(mean=tuple(value / 255 for value in mean), std=tuple(value / 255 for value in std))
        log.info("%s: mean and std are those of images in 0..255, so both are divided by 255", self.path)
        return scaled

    def renormalisation(self, source: DataSource, device: torch.device) -> Renormalisation:
        """Turns images as a data set normalises them into those that the network was trained on."""
        return Renormalisation(source.normalisation, self.normalisation(source.normalisation), device)

    def preprocess(self, source: DataSource) -> Callable[[ImageInput], Tensor]:
        """Turns one image of a data set into the network's input."""
        renormalise = self.renormalisation(source, torch.device("cpu"))
        return source.preprocess if renormalise.is_identity else partial(_compose, source.preprocess, renormalise)

    def check(self, net: nn.Module) -> None:
        """Compare names and shapes with a network, which may be on the meta device.

        Raises:
            UserError: A name is missing or unknown, a shape differs, or a value is not finite; the first is named.
        """
        self.state_dict_for(net)

    def load_into(self, net: nn.Module, *, as_built: nn.Module | None = None, without: Collection[str] = ()) -> None:
        """Load the weights into a network, strictly, and log what was chosen or converted.

        Args:
            as_built: The network that the weights must be of, where that is another one; on the meta device.
            without: Names that are not loaded.

        Raises:
            UserError: They are another network's, or not finite.
        """
        selection = self._select(as_built or net)
        state = self._converted(selection.state, as_built or net)
        if selection.left_out:
            log.warning("%s: %s", self.path, selection.summary)
        formats = {value.dtype for name, value in selection.state.items() if state[name].dtype != value.dtype}
        for dtype in formats - {torch.float32}:
            log.info("%s: weights in %s are loaded as float32", self.path, str(dtype).removeprefix("torch."))
        own = {name: net.state_dict()[name] for name in without}
        net.load_state_dict(state | own)

    def state_dict_for(self, net: nn.Module) -> dict[str, Tensor]:
        """The weights of a network with its names and number formats, on the CPU.

        Raises:
            UserError: They are another network's, or not finite.
        """
        return self._converted(self._select(net).state, net)

    def load_terms_into(self, objective: TrainingObjective) -> None:
        """Load what loss terms of the same names had learned, where the file holds that.

        Raises:
            UserError: Such a term has other parameters in the file, or some that are not finite.
        """
        state, content = objective.state_dict(), self.content.get("objective")
        for name in objective.names:
            own, learned = _of_term(name, state), _of_term(name, content if isinstance(content, dict) else {})
            if not learned:
                continue
            if problem := mismatch(own, learned):
                raise UserError(f"{self.path}: the loss {name} has other parameters in this file: {problem}")
            for key, value in learned.items():
                if not _is_finite(value):
                    raise UserError(f"{self.path}: {key} of the loss {name} is not finite")
            state |= {f"losses.{name}.{key}": value for key, value in learned.items()}
        objective.load_state_dict(state)

    def _channel_statistics(self, key: str, num_channels: int) -> tuple[float, ...]:
        value = self.content.get(key)
        try:
            numbers = torch.as_tensor(value, dtype=torch.float64, device="cpu").flatten().tolist()
        except (TypeError, ValueError, RuntimeError):
            numbers = []
        if len(numbers) != num_channels or not all(map(math.isfinite, numbers)):
            wanted = "a number" if num_channels == 1 else f"{num_channels} numbers, one for each channel"
            came = "nothing" if key not in self.content else " ".join(repr(value).split())[:60]
            raise UserError(f"{self.path}: {key} should be {wanted}, got {came}")
        return tuple(numbers)

    def _select(self, net: nn.Module) -> Selection:
        try:
            return select(self.state_dict, net)
        except NotTheseWeights as error:
            raise UserError(f"{self.path}: {error}") from None

    def _converted(self, state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        """A state dict in the number formats of a network, all values finite."""
        converted = {}
        for name, expected in net.state_dict().items():
            if expected.is_floating_point() and not state[name].is_floating_point():
                raise UserError(f"{self.path}: {name} is {state[name].dtype}, the network's {expected.dtype}")
            converted[name] = state[name].to(expected.dtype)
            if not _is_finite(converted[name]):
                raise UserError(f"{self.path}: {name} is not finite")
        return converted


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


def _is_finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() and tensor.numel()) or bool(torch.stack(tensor.aminmax()).isfinite().all())


def _compose(preprocess: Callable[[ImageInput], Tensor], renormalise: Renormalisation, image: ImageInput) -> Tensor:
    return renormalise(preprocess(image))


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
