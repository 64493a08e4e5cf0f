"""Deep mutual learning: networks are trained together and teach one another, without a pretrained teacher.

Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018, sec. 3. https://arxiv.org/abs/1706.00384
    sum over networks k of CE(k, labels) + weight of others * mean over the others j of T^2 * KL(j_T || k_T),
with the others' outputs detached. The networks are those of the student "peers", whose exits are the other networks'
outputs. The paper updates one network after another, each towards the others' outputs after their update; here, as in
common code, all networks use the same outputs and are updated together. T is 1 in the paper.
"""

from __future__ import annotations

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import LOSSES
from ..types import Batch, Output
from .base import DistillLoss
from .ce import cross_entropy
from .probabilities import kl


@LOSSES.register(
    "mutual",
    example={
        "loss": {"mutual": {}},
        "student": {"name": "peers", "networks": [{"name": "cnn", "num_channels": 8}] * 2},
    },
)
class MutualLearning(DistillLoss):
    """Labels and one another's probabilities, for networks that are trained together; uses no teacher.

    Args:
        others_weight: Factor of the divergence from the others; at 0 each network learns from the labels alone.
        temperature: Divides the logits of both networks in the soft part; above 0.
    """

    needs = frozenset()
    labels = "mixed"

    def __init__(self, *, others_weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if others_weight < 0:
            raise ValueError(f"others_weight must be 0 or more, got {others_weight}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.others_weight, self.temperature = others_weight, temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        if not student.exits:
            raise ValueError('the loss mutual needs several networks: use the student "peers"')
        logits = [peer.logits for peer in (student, *student.exits)]
        hard = torch.stack([cross_entropy(logits_NK, batch) for logits_NK in logits]).sum()
        log_ps = [F.log_softmax(logits_NK / self.temperature, dim=1) for logits_NK in logits]
        soft = torch.stack([kl(other_NK.detach(), log_p_NK).mean() for log_p_NK, other_NK in permutations(log_ps, 2)])
        return hard + self.others_weight * self.temperature**2 * soft.sum() / (len(logits) - 1)
