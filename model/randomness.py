"""Randomness as a function of (seed, epoch, index), not as a state.

Every random number is a hash of its purpose and its coordinates. So a run resumes exactly, two runs of a search see the
same views, and the view of one sample can be computed without drawing those before it. The hash is SplitMix64's
finaliser (Steele, Lea and Flood, OOPSLA 2014), chained over the key; it is the same on every machine and version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# The purpose of a random number is a part of its key, so that numbers of two purposes have nothing in common.
ORDER, VIEW, STEP, SPLIT, CHECK, CUTOUT, NEGATIVE, STRONG, FLIP, FIRST_VIEW, TEST = range(11)
AUTO_AUGMENT, COLOUR, ERASE, MIX, BALANCE = range(11, 16)


def random_bits(*key: int | NDArray[np.integer], index: NDArray[np.integer] | int = 0) -> NDArray[np.uint64]:
    """64 random bits for every element of `index`, a function of the key and the element alone.

    A word of the key may be an array with a number for each element.
    """
    return np.asarray(_mix(_state(*key) ^ np.asarray(index).astype(np.uint64)))


def random_bits_tensor(*key: int, index: Tensor) -> Tensor:
    """`random_bits` on the device of `index`: the same 64 bits, as int64."""
    z = (index ^ _signed(int(_state(*key)))) + _signed(GAMMA)
    z = (z ^ _logical_right_shift(z, 30)) * _signed(MULTIPLIER_1)
    z = (z ^ _logical_right_shift(z, 27)) * _signed(MULTIPLIER_2)
    return z ^ _logical_right_shift(z, 31)


def permutation(*key: int, index: NDArray[np.integer], keys: NDArray[np.uint64] | None = None) -> NDArray[np.integer]:
    """The elements of `index` in a random order that depends on the key and on the elements, not on their order.

    Args:
        keys: Numbers of the elements that their order depends on; by default the elements themselves.
    """
    order = np.argsort(random_bits(*key, index=index if keys is None else keys), kind="stable")
    shuffled: NDArray[np.integer] = index.take(order)
    return shuffled


def step_seed(seed: int, step: int, rank: int = 0, micro_batch: int = 0) -> int:
    """Seed of the generator that dropout uses in one step of the process `rank`, in [0, 2**63).

    Args:
        micro_batch: The number of the batch among those of the step.
    """
    key = [seed, STEP, step, rank, micro_batch]
    while not key[-1] and len(key) > 3:
        key.pop()
    return int(random_bits(*key)) >> 1


GAMMA, MULTIPLIER_1, MULTIPLIER_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's


def _state(*key: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    state = np.zeros((), np.uint64)
    for word in key:
        state = _mix(state ^ np.asarray(word).astype(np.uint64))
    return state


def _mix(state: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        z = np.asarray(state + np.uint64(GAMMA))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MULTIPLIER_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MULTIPLIER_2)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed


def _signed(word: int) -> int:
    """The signed number with the same 64 bits: tensors have no unsigned arithmetic."""
    return word - 2**64 if word >= 2**63 else word


def _logical_right_shift(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, for negative numbers too."""
    shifted: Tensor = (z >> bits) & (2 ** (64 - bits) - 1)
    return shifted
