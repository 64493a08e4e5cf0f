"""A compiled teacher returns what the network returns, whatever the size of the batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.logs import logging_to
from model.teachers.live import LiveTeacher
from model.types import Batch, Output
from tests.training.toy import SmallNet, live_teacher, open_data, seeded

pytestmark = pytest.mark.filterwarnings("default")  # compilers warn of much that is no fault of ours
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
BATCH = next(open_data().train_batches(0, 16))


class EveryPart(SmallNet):
    """A network that returns all parts of an output, each a function of its own of the images."""

    def forward(self, images_NCHW: Tensor) -> Output:
        output = super().forward(images_NCHW)
        (map_NCHW,) = output.maps
        exit_output = Output(output.logits - 1, output.embedding - 1, (map_NCHW - 1,))
        return Output(
            logits=output.logits,
            embedding=output.embedding,
            maps=(map_NCHW, map_NCHW + 1),
            preacts=(map_NCHW - 2,),
            exits=(exit_output,),
            stem=2 * images_NCHW,
        )


def tensors(output: Output) -> Iterator[Tensor]:
    """All tensors of an output, early exits' included."""
    for part in output:
        if isinstance(part, Output):
            yield from tensors(part)
        elif isinstance(part, tuple):
            for value in part:
                yield from tensors(value) if isinstance(value, Output) else [value]
        elif part is not None:
            yield part


def assert_same_outputs(teacher: LiveTeacher, batch: Batch) -> None:
    compiled, expected = (list(tensors(run(batch))) for run in (teacher, teacher.run_uncompiled))
    assert len(compiled) == len(expected) > 0
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def first(count: int) -> Batch:
    return Batch(*(rows[:count] for rows in BATCH))


@needs_compiler
def test_every_part_is_the_network_s_in_batches_of_any_size() -> None:
    teacher = live_teacher(seeded(EveryPart, 0))
    teacher.compile(6)
    for count in (6, 1, 5, 12, 16):
        assert_same_outputs(teacher, first(count))


@needs_compiler
def test_outputs_of_an_image_do_not_depend_on_its_batch() -> None:
    teacher = live_teacher(seeded(SmallNet, 0))
    teacher.compile(6)
    assert torch.equal(teacher(first(16)).logits[:3], teacher(first(3)).logits)


@needs_compiler
def test_networks_of_one_class_keep_their_own_weights() -> None:
    teachers = [live_teacher(seeded(SmallNet, seed)) for seed in range(10)]  # of eight, torch.compile would keep track
    for teacher in teachers:
        teacher.compile(16)
        assert_same_outputs(teacher, BATCH)
    for teacher in teachers:
        assert_same_outputs(teacher, BATCH)


@needs_compiler
def test_network_is_compiled_and_not_run_as_it_is() -> None:
    net = CountsCalls()
    teacher = live_teacher(net)
    teacher.compile(16)
    for _ in range(5):
        teacher(BATCH)
    assert net.num_calls <= 2  # while it is traced
    teacher.run_uncompiled(BATCH)
    assert net.num_calls <= 3


class CountsCalls(SmallNet):
    num_calls = 0

    def forward(self, images_NCHW: Tensor) -> Output:
        if not torch.compiler.is_compiling():
            self.num_calls += 1
        return super().forward(images_NCHW)


class CannotBeCompiled(SmallNet):
    """A network that looks at a value, as which its graph breaks."""

    def forward(self, images_NCHW: Tensor) -> Output:
        return super().forward(images_NCHW * (1.0 if images_NCHW.sum().item() > 0 else 2.0))


def test_network_that_cannot_be_compiled_runs_as_it_is(tmp_path: Path) -> None:
    teacher = live_teacher(seeded(CannotBeCompiled, 0))
    teacher.compile(16)
    with logging_to(tmp_path / "log"):
        assert not teacher.run_compiled(BATCH)
    assert "the teacher cannot be compiled (" in (tmp_path / "log").read_text()
    assert_same_outputs(teacher, BATCH)
