"""Find a network's weights in a file's content: under which key, behind which prefix, averaged or not.

Programs save `{"model": ...}`, `{"state_dict": ..., "state_dict_ema": ...}` or `{"ema": {"module": ...}}`, and
DataParallel, torch.compile, AveragedModel and Lightning put `module.`, `_orig_mod.` or `model.` before every name.
Which part of a file is meant, only the network's own names tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

# A key names weights if all its words are among WEIGHTS, and averaged ones if one is in AVERAGED.
AVERAGED = frozenset({"ema", "swa", "avg", "average", "averaged", "shadow"})
WEIGHTS = AVERAGED | frozenset(
    {"state", "dict", "model", "net", "network", "module", "weight", "weights", "params", "student", "teacher"}
)
# What other programs add to a network's own names: averages of weights, and the profiler thop.
BOOKKEEPING = frozenset({"n_averaged", "decay", "num_updates", "updates", "steps", "total_ops", "total_params"})


class NotTheseWeights(Exception):
    """A file's weights are another network's; the message says why."""


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
        """Which weights are used, and which are not."""
        used = f"{self.prefix.rstrip('.')}, the averaged weights," if self.is_averaged else self.prefix.rstrip(".")
        counts = Counter(map(self._group, self.left_out))
        left_out = ", ".join(group if count == 1 else f"{group} ({count} entries)" for group, count in counts.items())
        return f"{used} is used, not {left_out}" if used else f"left out: {left_out}"

    def _group(self, name: str) -> str:
        """What a name is left out with: another part of the file, or one kind of bookkeeping."""
        if name.startswith(self.prefix):
            return name.rpartition(".")[2]
        parts, own = name.split("."), self.prefix.split(".")
        depth = sum(parts[:depth] == own[:depth] for depth in range(1, len(own)))
        return ".".join(parts[: depth + 1])


def find_weights(content: Mapping[Any, Any]) -> dict[str, Any]:
    """All weights in a file; where it has several state dicts, their keys stand before the names."""
    if is_state_dict(content):
        return dict(content)
    found = _state_dicts(content)
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{key}.{name}": value for key, state in found.items() for name, value in state.items()}


def is_state_dict(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def select(weights: Mapping[str, Any], net: nn.Module) -> Selection:
    """The part of a file's weights that has all of a network's names and shapes behind one prefix, and no other.

    Where several have, averaged weights come first and a teacher's last.

    Args:
        net: May be on the meta device.

    Raises:
        NotTheseWeights: None has.
    """
    expected, parameters = net.state_dict(), {name for name, _ in net.named_parameters()}
    prefixes = _prefixes(weights, parameters)
    complete = _outermost([prefix for prefix, count in prefixes.items() if count == len(parameters)])
    parts = [_behind(prefix, weights, expected) for prefix in complete]
    fitting = [part for part in parts if mismatch(expected, part.state) is None]
    trained = next((part.state for part in fitting if not (part.is_averaged or part.is_teacher)), {})
    for part in parts:
        # An average of the parameters alone goes with the buffers of the network that was averaged.
        filled = replace(part, state=trained | part.state)
        if part.is_averaged and part not in fitting and mismatch(expected, filled.state) is None:
            fitting.append(filled)
    if not fitting:
        closest = complete[0] if complete else max(prefixes, key=lambda prefix: prefixes[prefix], default="")
        problem = mismatch(expected, _behind(closest, weights, expected).state)
        names = [name for name in weights if name.rpartition(".")[2] not in BOOKKEEPING]
        first, own = _first_part(names), _first_part(expected)
        raise NotTheseWeights(f"{problem}; all names begin with {first}." if first and first != own else problem)
    return min(fitting, key=lambda part: (part.is_teacher, not part.is_averaged))


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


def _state_dicts(content: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The state dicts in a file by their keys, dotted where they lie deeper."""
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(content, key=lambda key: key != "state_dict"):
        inner = content[key]
        if not (isinstance(key, str) and isinstance(inner, dict) and WEIGHTS.issuperset(_words(key))):
            continue
        if any(isinstance(value, dict) for value in inner.values()):
            found |= {f"{key}.{deeper}": state for deeper, state in _state_dicts(inner).items()}
        elif any(isinstance(value, Tensor) for value in inner.values()):
            found[key] = {str(name): value for name, value in inner.items()}
    return found


def _words(key: str) -> list[str]:
    return [word for word in re.split(r"[._]", key.lower()) if word]


def _prefixes(names: Iterable[str], own_names: Collection[str]) -> Counter[str]:
    """What stands before a network's own names in a file: each such prefix, and before how many of them."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in own_names:
                counts["".join(f"{part}." for part in parts[:depth])] += 1
    return counts


def _outermost(prefixes: list[str]) -> list[str]:
    """The prefixes that do not begin with another one: a network inside a network is not meant."""
    return [each for each in prefixes if not any(each != outer and each.startswith(outer) for outer in prefixes)]


def _behind(prefix: str, weights: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Selection:
    # Files of PyTorch before 0.4.1 have no counters of batches, and nothing reads them.
    state: dict[str, Any] = {name: value for name, value in expected.items() if name.endswith(".num_batches_tracked")}
    left_out: list[str] = []
    for name, value in weights.items():
        own = name.removeprefix(prefix)
        if name.startswith(prefix) and (own in expected or own.rpartition(".")[2] not in BOOKKEEPING):
            state[own] = value
        else:
            left_out.append(name)
    return Selection(prefix, state, left_out)


def _first_part(names: Iterable[str]) -> str:
    """What all names begin with up to a dot; nothing where they differ."""
    first = {name.rpartition(".")[0].partition(".")[0] for name in names}
    return first.pop() if len(first) == 1 else ""
