"""What losses have in common that compare the images of a batch with one another."""

from __future__ import annotations

import torch
from torch import Tensor


def require_batch(rows: Tensor) -> Tensor:
    """The rows, found to be more than one.

    Raises:
        ValueError: A single image has no relation to another.
    """
    if len(rows) < 2:
        raise ValueError("compares the images of a batch with one another, so a batch needs 2 images or more, got 1")
    return rows


def l2_normalize(vectors: Tensor) -> Tensor:
    """Vectors, the last dimension, at unit length.

    A vector of zeros has no direction: it stays, and gets no gradient, where a bound on the length alone would make
    one of 10^12.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.mul(vectors / length.clamp(min=1e-12), length > 0)
