"""A frozen network, compiled: its weights are constants, so batch norm is folded into convolutions and much is fused.

It is compiled for batches of one size, and smaller ones are padded: a network that is compiled for each size that comes
computes other last bits for some of them, and after eight sizes it is no longer compiled at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..types import Output

# On a GPU, a small network's time goes into starting kernels: a CUDA graph starts a whole batch's at once.
MODES = {"cpu": "default", "cuda": "reduce-overhead"}  # devices for which networks are compiled
MAX_NETWORKS = 64  # of one class in a process


class CompiledNetwork:
    """A network in eval mode whose weights never change, compiled at its first call; to be called without gradient.

    Args:
        batch_size: Images of a batch that it is compiled for.
        device_type: A key of `MODES`.
    """

    def __init__(self, net: nn.Module, batch_size: int, device_type: str) -> None:
        self.batch_size = batch_size
        # As one graph: else what cannot be compiled is run as it is, without a word.
        self._net = cast(
            Callable[[Tensor], Output], torch.compile(net, fullgraph=True, dynamic=False, mode=MODES[device_type])
        )
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nvcc without a GPU is worth no line
        self._copies = device_type == "cuda"  # a CUDA graph overwrites its outputs in its next call

    def __call__(self, images_NCHW: Tensor) -> Output:
        outputs = [self._run(chunk) for chunk in torch.split(images_NCHW, self.batch_size)]
        return outputs[0] if len(outputs) == 1 else _concatenate(outputs)

    def _run(self, images_NCHW: Tensor) -> Output:
        from torch._dynamo import config as dynamo_config  # takes seconds
        from torch._inductor import config as inductor_config

        count = len(images_NCHW)
        padded = F.pad(images_NCHW, (0, 0, 0, 0, 0, 0, 0, self.batch_size - count))
        # Not as an option of torch.compile: only as a setting it also keeps networks of one class apart.
        with inductor_config.patch(freezing=True), dynamo_config.patch(recompile_limit=MAX_NETWORKS):
            output = self._net(padded.contiguous(memory_format=torch.channels_last))
        if count == self.batch_size and not self._copies:
            return output
        return _map(lambda rows: rows[:count].clone(), output)


def _map(function: Callable[[Tensor], Tensor], output: Output) -> Output:
    """An output with the function applied to each of its tensors."""
    return Output(
        logits=function(output.logits),
        embedding=function(output.embedding),
        maps=tuple(map(function, output.maps)),
        preacts=tuple(map(function, output.preacts)),
        exits=tuple(_map(function, each) for each in output.exits),
        stem=None if output.stem is None else function(output.stem),
    )


def _concatenate(outputs: Sequence[Output]) -> Output:
    """The outputs for several batches as one."""
    logits, embedding, maps, preacts, exits, stem = zip(*outputs, strict=True)
    return Output(
        logits=torch.cat(logits),
        embedding=torch.cat(embedding),
        maps=tuple(map(torch.cat, zip(*maps, strict=True))),
        preacts=tuple(map(torch.cat, zip(*preacts, strict=True))),
        exits=tuple(map(_concatenate, zip(*exits, strict=True))),
        stem=None if stem[0] is None else torch.cat(stem),
    )
