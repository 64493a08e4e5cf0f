"""An exponential moving average of the student's weights (Polyak and Juditsky, 1992), by torch's AveragedModel.

Updated after every step of the optimizer, from the first one's weights on. Buffers, such as batch norm's statistics,
are averaged likewise and counters are copied, as timm's ModelEmaV3 does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The averaged weights of a student, as a network of its own.

    Args:
        decay: Share that the average keeps in a step.
        warmup: Whether the share after t steps is at most (1 + t) / (10 + t), so that a short run's average does not
            consist of its first weights.
    """

    def __init__(self, student: nn.Module, *, decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self._averaged = AveragedModel(student, multi_avg_fn=self._average, use_buffers=True)
        self._num_updates = 0
        self.best: dict[str, float] | None = None  # on val

    @property
    def net(self) -> nn.Module:
        return self._averaged.module

    def update(self, student: nn.Module) -> None:
        """Take in the student's weights after a step."""
        self._averaged.update_parameters(student)
        self._num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.net.state_dict(), "num_updates": self._num_updates, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["state"])
        self._num_updates, self.best = state["num_updates"], state["best"]
        self._averaged.n_averaged.fill_(self._num_updates)

    def _average(self, averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
            return
        steps = self._num_updates
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(averages, values, steps)  # type: ignore[no-untyped-call]
