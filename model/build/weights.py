"""Weights files: best.pth.tar, last.pth.tar, and those that others published."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..logs import log
from ..training.checkpoint import load_checkpoint
from ..training.step import TrainingObjective
from ..types import Normalisation

# A key of a file names weights if all its words are among these; they are averaged if one is in AVERAGED.
AVERAGED = frozenset({"ema", "swa", "avg", "average", "averaged", "shadow"})
WEIGHTS = AVERAGED | frozenset(
    {"state", "dict", "model", "net", "network", "module", "weight", "weights", "params", "student", "teacher"}
)
# Names that other programs add to a network's own: torch's AveragedModel and the profiler thop.
BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
COUNTER = ".num_batches_tracked"


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
        found = {"": self.content} if self._is_state_dict else _state_dicts(self.content)
        if not found:
            keys = ", ".join([*map(str, self.content)][:10]) or "nothing"
            raise UserError(
                f"{self.path}: holds no weights under state_dict, model, state_dict_ema or a similar key, but {keys}"
            )
        state = {
            name if len(found) == 1 else f"{key}.{name}": value
            for key, inner in found.items()
            for name, value in inner.items()
        }
        for name, value in state.items():
            if isinstance(value, Tensor) and (value.is_meta or value.is_quantized or value.layout != torch.strided):
                kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
                raise UserError(f"{self.path}: {name} is a {kind} tensor, which is not loaded")
        return state

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

    def normalisation(self, default: Normalisation) -> Normalisation:
        """The normalisation of the images that the network was trained on, where the file has `mean` and `std`.

        Raises:
            UserError: One of them is missing, or is not a number for each channel of the default.
        """
        if self._is_state_dict or not self.content.keys() & {"mean", "std"}:
            return default
        mean, std = (self._channel_statistics(key, len(default.mean)) for key in ("mean", "std"))
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

    def check(self, net: nn.Module) -> None:
        """Compare names and shapes with a network, which may be on the meta device.

        Raises:
            UserError: A name is missing or unknown, a shape differs, or a value is not finite; the first is named.
        """
        self.state_dict_for(net)

    def load_into(self, net: nn.Module) -> None:
        """Load the weights into a network, strictly, and log what the file holds beside them.

        Raises:
            UserError: They are another network's, or not finite.
        """
        selection = self._select(net)
        if selection.left_out:
            log.warning("%s: %s", self.path, selection.summary)
        net.load_state_dict(self._in_formats_of(net, selection.state))

    def state_dict_for(self, net: nn.Module) -> dict[str, Tensor]:
        """The weights of a network, with its names and number formats.

        Raises:
            UserError: They are another network's, or not finite.
        """
        return self._in_formats_of(net, self._select(net).state)

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

    @cached_property
    def _is_state_dict(self) -> bool:
        """Whether the whole file is a state dict."""
        return bool(self.content) and all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in self.content.items()
        )

    def _channel_statistics(self, key: str, num_channels: int) -> tuple[float, ...]:
        value = self.content.get(key)
        try:
            numbers = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
        except (TypeError, ValueError, RuntimeError):
            numbers = []
        if len(numbers) != num_channels or not all(map(math.isfinite, numbers)):
            wanted = "a number" if num_channels == 1 else f"{num_channels} numbers, one for each channel"
            came = "nothing" if key not in self.content else " ".join(repr(value).split())[:60]
            raise UserError(f"{self.path}: {key} should be {wanted}, got {came}")
        return tuple(numbers)

    def _in_formats_of(self, net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        converted = {}
        for name, expected in net.state_dict().items():
            if expected.is_floating_point() and not state[name].is_floating_point():
                raise UserError(f"{self.path}: {name} is {state[name].dtype}, the network {expected.dtype}")
            converted[name] = state[name].to(expected.dtype)
            if not _is_finite(converted[name]):
                raise UserError(f"{self.path}: {name} is not finite")
        return converted

    def _select(self, net: nn.Module) -> Selection:
        """Find a network's weights: below a prefix of the file's names, everything has the network's names and shapes.

        Where several prefixes fit, averaged weights come first and a teacher's last.

        Raises:
            UserError: No prefix fits.
        """
        expected, parameters = net.state_dict(), {name for name, _ in net.named_parameters()}
        prefixes = _prefixes(self.state_dict, parameters)
        selections = [self._below(prefix, expected) for prefix in _outermost(prefixes, len(parameters))]
        fitting = [each for each in selections if mismatch(expected, each.state) is None]
        trained = next((each.state for each in fitting if not (each.is_averaged or each.is_teacher)), {})
        for each in selections:
            if each.is_averaged and each not in fitting:  # of the parameters alone: the buffers are those beside them
                each = replace(each, state=trained | each.state)
                if mismatch(expected, each.state) is None:
                    fitting.append(each)
        if fitting:
            return min(fitting, key=lambda each: (each.is_teacher, not each.is_averaged))
        closest = max(prefixes, key=lambda prefix: prefixes[prefix], default="")
        problem = mismatch(expected, self._below(closest, expected).state)
        common = _common_prefix(self.state_dict)
        reason = f"; all names begin with {common}" if common and common != _common_prefix(expected) else ""
        raise UserError(f"{self.path}: {problem}{reason}")

    def _below(self, prefix: str, expected: Mapping[str, Tensor]) -> Selection:
        """The names below a prefix; entries that are bookkeeping of other programs are left out."""
        state: dict[str, Any] = {}
        left_out: list[str] = []
        for name, value in self.state_dict.items():
            own = name.removeprefix(prefix)
            is_below = name.startswith(prefix) and (own in expected or own.rpartition(".")[2] not in BOOKKEEPING)
            if is_below:
                state[own] = value
            else:
                left_out.append(name)
        # Files of PyTorch before 0.4.1 have no counters of batches, and nothing reads them.
        state |= {name: expected[name] for name in expected if name not in state and name.endswith(COUNTER)}
        return Selection(prefix, state, left_out)


@dataclass(frozen=True)
class Selection:
    """A part of a file's weights.

    Args:
        prefix: What stands before its names in the file.
        state: The part, without the prefix.
        left_out: The other names of the file.
    """

    prefix: str
    state: dict[str, Any]
    left_out: list[str]

    @property
    def is_averaged(self) -> bool:
        return not AVERAGED.isdisjoint(_words(self.prefix))

    @property
    def is_teacher(self) -> bool:
        return "teacher" in _words(self.prefix)

    @property
    def summary(self) -> str:
        """One line: which weights are used, and which are not."""
        counts = Counter(self._group(name) for name in self.left_out)
        left_out = ", ".join(f"{group} ({count} tensors)" if count > 1 else group for group, count in counts.items())
        averaged = ", the averaged weights," if self.is_averaged else ""
        return f"{self.prefix.rstrip('.') or 'the network'}{averaged} is used, without {left_out}"

    def _group(self, name: str) -> str:
        """What a name is left out with: the part of the file beside the selected one, or a kind of bookkeeping."""
        if name.startswith(self.prefix):
            return name.rpartition(".")[2]
        parts, own = name.split("."), self.prefix.split(".")
        depth = next((index for index, part in enumerate(parts) if part != own[index]), len(parts))
        return ".".join(parts[: depth + 1])


def _state_dicts(content: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The state dicts of a file's content by their keys, dotted where they lie deeper."""
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(content, key=lambda key: key != "state_dict"):
        inner = content[key]
        if not (isinstance(key, str) and isinstance(inner, dict) and WEIGHTS.issuperset(_words(key))):
            continue
        if any(isinstance(value, dict) for value in inner.values()):
            found |= {f"{key}.{deeper}": state for deeper, state in _state_dicts(inner).items()}
        elif all(isinstance(name, str) for name in inner) and any(isinstance(value, Tensor) for value in inner.values()):
            found[key] = inner
    return found


def _words(key: str) -> list[str]:
    return [word for word in re.split(r"[._]", key.lower()) if word]


def _prefixes(names: Iterable[str], own_names: Collection[str]) -> Counter[str]:
    """What stands before a network's own names in a file: every such prefix, with the number of those names."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in own_names:
                counts["".join(f"{part}." for part in parts[:depth])] += 1
    return counts


def _outermost(prefixes: Counter[str], num_names: int) -> list[str]:
    """The prefixes that stand before all names, without those inside another one."""
    complete = [prefix for prefix, count in prefixes.items() if count == num_names]
    return [
        prefix for prefix in complete if not any(prefix != outer and prefix.startswith(outer) for outer in complete)
    ]


def _common_prefix(names: Iterable[str]) -> str:
    """The first part that all names share, with its dot; bookkeeping does not count."""
    first = {name.rpartition(".")[0].partition(".")[0] for name in names if name not in BOOKKEEPING}
    return f"{first.pop()}." if len(first) == 1 and first != {""} else ""


def _is_finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() and tensor.numel()) or bool(torch.stack(tensor.aminmax()).isfinite().all())


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
