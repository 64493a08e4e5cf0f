"""What every sampler has: its requirements, and the points that it proposes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from ..results import TrialResult
from ..space.points import Point, seed_of
from ..space.schema import Space


class Sampler:
    """Chooses the points of a space that are tried.

    A proposal must be a function of the known points, in their order, and of the seed: nothing is kept from one call to
    the next, so that a search that was killed goes on as one that was not.
    """

    is_sequential: ClassVar[bool] = True  # `propose` gives one point after another; else `all_points` has all at once
    takes_ranges: ClassVar[bool] = True
    takes_several_metrics: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()  # that must be installed

    def __init__(self, space: Space) -> None:
        self.space = space

    def all_points(self) -> list[Point]:
        """All points, of a sampler that is not sequential."""
        raise NotImplementedError

    def propose(self, known: Sequence[tuple[Point, TrialResult]], seeds: Iterable[int]) -> Iterator[Point]:
        """Points to try next, each an alternative to the others; one point per seed.

        Args:
            known: All points that have a folder, in the order of their numbers.
        """
        raise NotImplementedError

    def proposals(
        self, known: Sequence[tuple[Point, TrialResult]], number: int, attempts: Iterable[int] = (0,)
    ) -> Iterator[Point]:
        """Alternatives for the point of one trial.

        Args:
            known: All points that have a folder, in the order of their numbers.
            number: Of the trial.
            attempts: Numbers of the alternatives.
        """
        return self.propose(known, (seed_of(self.space.search_seed, number, attempt) for attempt in attempts))
