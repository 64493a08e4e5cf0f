"""Helpers of losses that compare the images of a batch with one another."""

from __future__ import annotations

import torch
from torch import Tensor


def require_batch(rows: Tensor) -> Tensor:
    """The rows, checked to be two or more.

    Raises:
        ValueError: The batch is a single image, which cannot be compared with another.
    """
    if len(rows) < 2:
        raise ValueError("compares the images of a batch with one another, so a batch needs 2 images or more, got 1")
    return rows


def l2_normalize(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension, at unit length.

    A vector of zeros has no direction: it stays as it is and gets no gradient. A lower bound on the length alone would
    give it a gradient of 10^12.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.mul(vectors / length.clamp(min=1e-12), length > 0)
