"""Which map of the student is compared with which map of the teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import Output

Layers = list[int] | list[tuple[int, int]]  # numbers of stages from 1, the same on both sides or (student's, teacher's)
Pair = tuple[Tensor, Tensor]


def paired(student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Layers | None = None) -> list[Pair]:
    """As `chosen`, with maps of equal height and width: of a pair that differs, the larger is averaged down."""
    return [match_size(*pair) for pair in select_pairs(student, teacher, layers)]


def select_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Layers | None = None) -> list[Pair]:
    """Pairs of maps (N, C, H, W), shallow to deep, in float32 at least.

    Without `layers`, as many maps on both sides are paired in order. Otherwise those of equal height and width are, the
    deepest of the student with the deepest of the teacher; what is left over is not compared.

    Raises:
        ValueError: There is nothing to pair, or no such stage.
    """
    _refuse_none(student, teacher)
    if layers is not None:
        pairs = [_numbered(student, teacher, each) for each in layers]
    elif len(student) == len(teacher):
        pairs = list(zip(student, teacher, strict=True))
    else:
        pairs = _by_size(student, teacher)
    if not pairs:
        raise ValueError(
            f"the student gives {len(student)} maps ({_sizes(student)}) and the teacher {len(teacher)} "
            f"({_sizes(teacher)}): unequal numbers, and no size in common"
        )
    return [(in_float32(one), in_float32(other)) for one, other in pairs]


def deepest(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Pair:
    """The last map of each side, of whatever size, in float32 at least.

    Raises:
        ValueError: A side has none.
    """
    _refuse_none(student, teacher)
    return in_float32(student[-1]), in_float32(teacher[-1])


def all_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Pair]:
    """Every map of the student with each of the teacher's in turn, in float32 at least.

    Raises:
        ValueError: There is nothing to pair.
    """
    _refuse_none(student, teacher)
    return list(product(map(in_float32, student), map(in_float32, teacher)))


def before_relu(output: Output, side: str) -> tuple[Tensor, ...]:
    """A network's maps before their ReLU.

    Raises:
        ValueError: It does not give them; names the side.
    """
    if not output.preacts:
        raise ValueError(f"the {side} does not give its maps as they are before the ReLU")
    return output.preacts


def match_size(
    one_NCHW: Tensor, other_NCHW: Tensor, pool: Callable[..., Tensor] = F.adaptive_avg_pool2d
) -> tuple[Tensor, Tensor]:
    """The larger map pooled, without `pool` averaged, down to the height and width of the smaller one."""
    height, width = (min(sides) for sides in zip(one_NCHW.shape[2:], other_NCHW.shape[2:], strict=True))
    one_NCHW, other_NCHW = (
        map_NCHW if map_NCHW.shape[2:] == (height, width) else pool(map_NCHW, (height, width))
        for map_NCHW in (one_NCHW, other_NCHW)
    )
    return one_NCHW, other_NCHW


def in_float32(map_NCHW: Tensor) -> Tensor:
    """Maps come in bfloat16; float64, as in gradient checks, stays."""
    return map_NCHW.to(torch.promote_types(map_NCHW.dtype, torch.float32))


def _refuse_none(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for side, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise ValueError(f"the {side} gives no maps to compare")


def _numbered(student: Sequence[Tensor], teacher: Sequence[Tensor], numbers: int | tuple[int, int]) -> Pair:
    mine, theirs = (numbers, numbers) if isinstance(numbers, int) else numbers
    for side, number, maps in (("student", mine, student), ("teacher", theirs, teacher)):
        if not 1 <= number <= len(maps):
            raise ValueError(f"layers: the {side} has stages 1 to {len(maps)}, got {number}")
    return student[mine - 1], teacher[theirs - 1]


def _by_size(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Pair]:
    waiting = defaultdict(list)
    for teacher_NCHW in teacher:
        waiting[teacher_NCHW.shape[2:]].append(teacher_NCHW)
    pairs = [(each, waiting[each.shape[2:]].pop()) for each in reversed(student) if waiting[each.shape[2:]]]
    return pairs[::-1]


def _sizes(maps: Sequence[Tensor]) -> str:
    return ", ".join(f"{height}x{width}" for _, _, height, width in (map_NCHW.shape for map_NCHW in maps))
