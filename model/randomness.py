"""Randomness as a function of (seed, epoch, index), not as a state.

Every draw is a hash of what it is for. So a run resumes exactly, two runs of a search see the same views, and
the view of one sample can be computed without drawing those before it. The hash is SplitMix64's finaliser
(Steele, Lea and Flood, OOPSLA 2014), chained over the key; it is the same on every machine and version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

ORDER, VIEW, STEP, SPLIT, CHECK, CUTOUT, NEGATIVE, STRONG, FLIP = range(
    9
)  # what a draw is for; a key never serves two purposes


def random_bits(*key: int, index: NDArray[np.integer] | int = 0) -> NDArray[np.uint64]:
    """64 random bits for every element of `index`, a function of the key and the element alone."""
    return np.asarray(_mix(_state(*key) ^ np.asarray(index).astype(np.uint64)))


def random_bits_there(*key: int, index: Tensor) -> Tensor:
    """As `random_bits`, computed where `index` lies: the same 64 bits, as int64."""
    z = (index ^ _signed(int(_state(*key)))) + _signed(GAMMA)
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    return z ^ _shifted(z, 31)


def permutation(*key: int, index: NDArray[np.integer]) -> NDArray[np.integer]:
    """The elements of `index` in a random order that depends on the key and on the elements, not on their order."""
    order = np.argsort(random_bits(*key, index=index), kind="stable")
    shuffled: NDArray[np.integer] = index.take(order)
    return shuffled


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of the generator that a step's dropout draws from in the process `rank`, in [0, 2**63)."""
    key = (seed, STEP, step, rank) if rank else (seed, STEP, step)
    return int(random_bits(*key)) >> 1


GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's


def _state(*key: int) -> NDArray[np.uint64]:
    state = np.zeros((), np.uint64)
    for word in key:
        state = _mix(state ^ np.uint64(word))
    return state


def _mix(state: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        z = np.asarray(state + np.uint64(GAMMA))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed


def _signed(word: int) -> int:
    """The number whose 64 bits are these, for tensors have no unsigned arithmetic."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in also where the sign is set."""
    shifted: Tensor = (z >> bits) & (2 ** (64 - bits) - 1)
    return shifted
