"""Randomness as a function of (seed, epoch, index), not as a state.

Every draw is a hash of what it is for. So a run resumes exactly, two runs of a search see the same views, and
the view of one sample can be computed without drawing those before it. The hash is SplitMix64's finaliser
(Steele, Lea and Flood, OOPSLA 2014), chained over the key; it is the same on every machine and version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER, VIEW, STEP, SPLIT, CHECK, CUTOUT = range(6)  # what a draw is for; a key never serves two purposes


def random_bits(*key: int, index: NDArray[np.integer] | int = 0) -> NDArray[np.uint64]:
    """64 random bits for every element of `index`, a function of the key and the element alone."""
    state = np.zeros((), np.uint64)
    for word in key:
        state = _mix(state ^ np.uint64(word))
    return np.asarray(_mix(state ^ np.asarray(index).astype(np.uint64)))


def permutation(*key: int, index: NDArray[np.integer]) -> NDArray[np.integer]:
    """The elements of `index` in a random order that depends on the key and on the elements, not on their order."""
    order = np.argsort(random_bits(*key, index=index), kind="stable")
    shuffled: NDArray[np.integer] = index.take(order)
    return shuffled


def step_seed(seed: int, step: int) -> int:
    """Seed of the generator that a step's dropout draws from, in [0, 2**63)."""
    return int(random_bits(seed, STEP, step)) >> 1


def _mix(state: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        z = np.asarray(state + np.uint64(0x9E3779B97F4A7C15))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed
