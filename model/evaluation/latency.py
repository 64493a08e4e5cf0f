"""The latency of a network: the time of a forward pass."""

from __future__ import annotations

import logging
import statistics
import time
from typing import NamedTuple

import torch
from torch import nn

from ..training.precision import autocast

LATENCY_SECONDS = 0.1  # duration of the measurement, at least
MIN_PASSES = 5
BATCH_SIZES = (1, 128)  # of which evaluate.py reports the latency


class Latency(NamedTuple):
    """Time of a forward pass."""

    batch_size: int
    milliseconds: float  # median
    spread: float  # interquartile range, in milliseconds
    threads: int

    def __str__(self) -> str:
        images = "1 image" if self.batch_size == 1 else f"{self.batch_size} images"
        return f"{self.milliseconds:.2f} ms (interquartile range {self.spread:.2f}) for {images}"


@torch.no_grad()
def latency(
    net: nn.Module,
    image_shape: tuple[int, ...],
    *,
    batch_size: int = 1,
    dtype: torch.dtype,
    device: torch.device,
    seconds: float | None = None,
) -> Latency:
    """Measure forward passes of a batch of images of the shape (C, H, W), with the threads that torch uses.

    Args:
        seconds: About how long to measure; LATENCY_SECONDS if left out.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns where there is no GPU to compile for
    from torch.utils.benchmark import Timer  # the import takes a tenth of a second

    seconds = LATENCY_SECONDS if seconds is None else seconds
    was_training, threads = net.training, torch.get_num_threads()
    net.eval()
    images = torch.zeros(batch_size, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    try:
        with autocast(dtype, device):
            timer = Timer("net(images)", globals={"net": net, "images": images}, num_threads=threads)
            # One pass a measurement, each after two to warm up: the mean of many would hide how they vary.
            begin, milliseconds = time.monotonic(), list[float]()
            while len(milliseconds) < MIN_PASSES or time.monotonic() < begin + seconds:
                milliseconds.append(1000 * timer.timeit(1).median)
    finally:
        net.train(was_training)
    quarter, _, three_quarters = statistics.quantiles(milliseconds, n=4)
    return Latency(batch_size, statistics.median(milliseconds), three_quarters - quarter, threads)
