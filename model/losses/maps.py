"""Which map of the student is compared with which map of the teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def paired(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of maps (N, C, H, W), shallow to deep, of equal height and width, in float32 at least.

    As many maps on both sides are paired in order. Otherwise those of equal height and width are, the deepest of the
    student with the deepest of the teacher; what is left over is not compared. Of a pair that differs in size, the
    larger is averaged down to the smaller.

    Raises:
        ValueError: There is nothing to pair.
    """
    for side, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise ValueError(f"the {side} gives no maps to compare")
    pairs = list(zip(student, teacher, strict=True)) if len(student) == len(teacher) else _by_size(student, teacher)
    if not pairs:
        raise ValueError(
            f"the student gives {len(student)} maps ({_sizes(student)}) and the teacher {len(teacher)} "
            f"({_sizes(teacher)}): unequal numbers, and no size in common"
        )
    return [_of_one_size(*pair) for pair in pairs]


def _by_size(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    waiting = defaultdict(list)
    for teacher_NCHW in teacher:
        waiting[teacher_NCHW.shape[2:]].append(teacher_NCHW)
    pairs = [(each, waiting[each.shape[2:]].pop()) for each in reversed(student) if waiting[each.shape[2:]]]
    return pairs[::-1]


def _of_one_size(student_NCHW: Tensor, teacher_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    height, width = (min(sides) for sides in zip(student_NCHW.shape[2:], teacher_NCHW.shape[2:], strict=True))
    return _shrunk(student_NCHW, height, width), _shrunk(teacher_NCHW, height, width)


def _shrunk(map_NCHW: Tensor, height: int, width: int) -> Tensor:
    map_NCHW = map_NCHW.to(torch.promote_types(map_NCHW.dtype, torch.float32))
    return map_NCHW if map_NCHW.shape[2:] == (height, width) else F.adaptive_avg_pool2d(map_NCHW, (height, width))


def _sizes(maps: Sequence[Tensor]) -> str:
    return ", ".join(f"{height}x{width}" for _, _, height, width in (map_NCHW.shape for map_NCHW in maps))
