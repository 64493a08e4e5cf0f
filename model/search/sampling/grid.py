"""Grid search: all combinations of the values, which are known before the first run."""

from __future__ import annotations

from ...registry import SAMPLERS
from ..space.points import Point, grid_points
from .base import Sampler


@SAMPLERS.register("grid")
class GridSearch(Sampler):
    """All combinations, the last parameter varying fastest; at most `run_cap` of them."""

    is_sequential = False
    takes_ranges = False

    def all_points(self) -> list[Point]:
        return grid_points(self.space)
