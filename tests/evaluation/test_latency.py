"""The latency of a network: how it is measured, with networks whose time is known."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from model.evaluation.latency import latency

CPU = torch.device("cpu")


class Sleeping(nn.Module):
    """Takes a known time for a batch, and remembers what it was given."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.shapes, self.modes = seconds, set[tuple[int, ...]](), set[bool]()

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.add(tuple(images.shape))
        self.modes.add(self.training)
        time.sleep(self.seconds)
        return images


def test_latency_is_the_time_of_one_pass_of_the_batch_in_eval_mode() -> None:
    net = Sleeping(0.01)
    measured = latency(net, (3, 8, 8), batch_size=4, dtype=torch.float32, device=CPU)
    assert measured.milliseconds >= 10
    assert (net.shapes, net.modes) == ({(4, 3, 8, 8)}, {False})
    assert net.training


def test_slow_network_is_measured_a_few_times_all_the_same() -> None:
    measured = latency(Sleeping(0.01), (3, 8, 8), dtype=torch.float32, device=CPU, seconds=0.0)
    assert measured.spread >= 0


@pytest.mark.parametrize(("size", "text"), [(1, "for 1 image"), (128, "for 128 images")])
def test_latency_says_of_how_many_images_it_is(size: int, text: str) -> None:
    measured = latency(Sleeping(0.0), (3, 8, 8), batch_size=size, dtype=torch.float32, device=CPU, seconds=0.01)
    assert str(measured).endswith(text)
    assert measured.threads == torch.get_num_threads()
