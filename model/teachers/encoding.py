"""How teacher outputs are stored: one part of an output, a row per image, to 16-bit words and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..types import Part


class Encoding(Protocol):
    """Converts a part of a network's output, a row of D values per image, to `width` words of 16 bits, and back."""

    @property
    def width(self) -> int: ...

    def file_name(self, part: Part) -> str:
        """The name of the file that holds the part in this encoding: each encoding has files of its own."""

    def encode(self, values_ND: Tensor) -> Tensor:
        """(N, D) to int16 (N, width)."""

    def decode(self, words_NW: Tensor) -> Tensor:
        """int16 (N, width) to float32 (N, D)."""

    def distance(self, cached_ND: Tensor, computed_ND: Tensor) -> Tensor:
        """How far decoded rows are apart, relative to the size of their values: (N,)."""


@dataclass(frozen=True)
class Float16Encoding:
    """All values, as float16."""

    width: int

    def file_name(self, part: Part) -> str:
        return part

    def encode(self, values_ND: Tensor) -> Tensor:
        return values_ND.half().view(torch.int16)

    def decode(self, words_NW: Tensor) -> Tensor:
        return words_NW.view(torch.float16).float()

    def distance(self, cached_ND: Tensor, computed_ND: Tensor) -> Tensor:
        largest_N = computed_ND.abs().amax(dim=1).clamp(min=torch.finfo(torch.float16).tiny)
        return (cached_ND - computed_ND).abs().amax(dim=1) / largest_N


class TopKEncoding:
    """The k largest log-probabilities and their classes; the remaining mass is spread evenly over the other classes.

    Args:
        k: Number of classes that are stored, below the number of all classes.
        num_classes: At most 65,536.
    """

    def __init__(self, k: int, num_classes: int) -> None:
        if not 0 < k < num_classes <= 2**16:
            raise ValueError(f"k must be above 0 and below the number of classes, {num_classes}, got {k}")
        self.k, self.num_classes, self.width = k, num_classes, 2 * k

    def file_name(self, part: Part) -> str:
        return f"{part}_top_{self.k}"

    def encode(self, values_ND: Tensor) -> Tensor:
        top_Nk = values_ND.float().log_softmax(dim=1).topk(self.k, dim=1)
        classes_Nk = top_Nk.indices.to(torch.int32).to(torch.int16)  # classes from 2^15 on wrap; decode unwraps them
        return torch.cat([top_Nk.values.half().view(torch.int16), classes_Nk], dim=1)

    def decode(self, words_NW: Tensor) -> Tensor:
        log_p_Nk = words_NW[:, : self.k].contiguous().view(torch.float16).float()
        classes_Nk = words_NW[:, self.k :].long() & 0xFFFF
        rest_N1 = (1 - self.mass(words_NW)).clamp(min=torch.finfo(torch.float16).tiny)[:, None]
        others_NK = (rest_N1 / (self.num_classes - self.k)).log().repeat(1, self.num_classes)
        return others_NK.scatter(1, classes_Nk, log_p_Nk)

    def distance(self, cached_ND: Tensor, computed_ND: Tensor) -> Tensor:
        # Of probabilities, as classes of almost equal logits swap in and out of the largest k.
        return (cached_ND.exp() - computed_ND.exp()).abs().amax(dim=1)

    def mass(self, words_NW: Tensor) -> Tensor:
        """Total probability of the k classes: (N,)."""
        return words_NW[:, : self.k].contiguous().view(torch.float16).float().exp().sum(dim=1)
