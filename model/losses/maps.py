"""Pairs of feature maps: which map of the student is compared with which map of the teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import Output

Layers = list[int] | list[tuple[int, int]]  # stage numbers from 1, of both networks or as pairs (student's, teacher's)
Pair = tuple[Tensor, Tensor]


def paired(student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Layers | None = None) -> list[Pair]:
    """As `select_pairs`, with maps of equal height and width: where they differ, the larger one is averaged down."""
    return [match_size(*pair) for pair in select_pairs(student, teacher, layers)]


def select_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Layers | None = None) -> list[Pair]:
    """Pairs of maps (N, C, H, W), shallow to deep, in float32 at least.

    Without `layers`, equal numbers of maps are paired in order. Unequal numbers are paired by height and width, from
    the deep end: the student's deepest map of a size with the teacher's deepest of that size. Maps without a partner
    are left out.

    Raises:
        ValueError: There is nothing to pair, or no stage of such a number.
    """
    _require_maps(student, teacher)
    if layers is not None:
        pairs = [_pair_by_number(student, teacher, numbers) for numbers in layers]
    elif len(student) == len(teacher):
        pairs = list(zip(student, teacher, strict=True))
    else:
        pairs = _pairs_by_size(student, teacher)
    if not pairs:
        raise ValueError(
            f"the student returns {len(student)} maps ({_sizes(student)}) and the teacher {len(teacher)} "
            f"({_sizes(teacher)}): unequal numbers, and no size in common"
        )
    return [(in_float32(student_NCHW), in_float32(teacher_NCHW)) for student_NCHW, teacher_NCHW in pairs]


def deepest(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Pair:
    """The last map of each network, of whatever size, in float32 at least.

    Raises:
        ValueError: A network returns none.
    """
    _require_maps(student, teacher)
    return in_float32(student[-1]), in_float32(teacher[-1])


def all_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Pair]:
    """Every map of the student with every map of the teacher, in float32 at least.

    Raises:
        ValueError: There is nothing to pair.
    """
    _require_maps(student, teacher)
    return list(product(map(in_float32, student), map(in_float32, teacher)))


def before_relu(output: Output, network: str) -> tuple[Tensor, ...]:
    """The maps before their ReLU.

    Args:
        network: "student" or "teacher", for the error.

    Raises:
        ValueError: The network does not return them.
    """
    if not output.preacts:
        raise ValueError(f"the {network} does not return its maps before the ReLU")
    return output.preacts


def match_size(
    one_NCHW: Tensor, other_NCHW: Tensor, pool: Callable[..., Tensor] = F.adaptive_avg_pool2d
) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller one's height and width: the larger one is pooled, by default averaged."""
    height, width = (min(sides) for sides in zip(one_NCHW.shape[2:], other_NCHW.shape[2:], strict=True))
    one_NCHW, other_NCHW = (
        map_NCHW if map_NCHW.shape[2:] == (height, width) else pool(map_NCHW, (height, width))
        for map_NCHW in (one_NCHW, other_NCHW)
    )
    return one_NCHW, other_NCHW


def in_float32(map_NCHW: Tensor) -> Tensor:
    """Maps may come in bfloat16; float64, as in gradient checks, stays."""
    return map_NCHW.to(torch.promote_types(map_NCHW.dtype, torch.float32))


def _require_maps(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for network, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise ValueError(f"the {network} returns no maps to compare")


def _pair_by_number(student: Sequence[Tensor], teacher: Sequence[Tensor], numbers: int | tuple[int, int]) -> Pair:
    student_stage, teacher_stage = (numbers, numbers) if isinstance(numbers, int) else numbers
    for network, stage, maps in (("student", student_stage, student), ("teacher", teacher_stage, teacher)):
        if not 1 <= stage <= len(maps):
            raise ValueError(f"layers: the {network} has stages 1 to {len(maps)}, got {stage}")
    return student[student_stage - 1], teacher[teacher_stage - 1]


def _pairs_by_size(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Pair]:
    unpaired = defaultdict(list)  # the teacher's maps by height and width
    for teacher_NCHW in teacher:
        unpaired[teacher_NCHW.shape[2:]].append(teacher_NCHW)
    pairs = [
        (student_NCHW, unpaired[student_NCHW.shape[2:]].pop())
        for student_NCHW in reversed(student)
        if unpaired[student_NCHW.shape[2:]]
    ]
    return pairs[::-1]


def _sizes(maps: Sequence[Tensor]) -> str:
    return ", ".join(f"{height}x{width}" for _, _, height, width in (map_NCHW.shape for map_NCHW in maps))
