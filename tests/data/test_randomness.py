"""Random numbers are a function of their key, and look random."""

import numpy as np
import pytest
import torch

from model.randomness import ORDER, SPLIT, STEP, VIEW, permutation, random_bits, random_bits_tensor, step_seed

GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def test_bits_are_those_of_splitmix64() -> None:
    """The sequence that seed 1234567 gives, as the generator's reference implementations have it."""
    states = [(1234567 + step * GOLDEN_GAMMA) % 2**64 for step in range(5)]
    assert random_bits(index=np.array(states, np.uint64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_bits_of_an_element_do_not_depend_on_its_neighbours() -> None:
    together = random_bits(3, VIEW, 5, index=np.arange(100))
    assert [int(random_bits(3, VIEW, 5, index=element)) for element in range(100)] == together.tolist()


@pytest.mark.parametrize("other", [(4, VIEW, 5), (3, ORDER, 5), (3, VIEW, 6), (3, STEP, 5), (3, SPLIT), (5, VIEW, 3)])
def test_bits_of_different_keys_have_nothing_in_common(other: tuple[int, ...]) -> None:
    index = np.arange(10_000)
    difference = random_bits(3, VIEW, 5, index=index) ^ random_bits(*other, index=index)
    differing_bits = np.unpackbits(difference.view(np.uint8)).mean()
    assert differing_bits == pytest.approx(0.5, abs=0.005)  # eight standard deviations


@pytest.mark.parametrize("key", [(), (3, VIEW, 5), (2**40, ORDER, 7, 1)])
def test_bits_on_a_device_are_the_same(key: tuple[int, ...]) -> None:
    index = np.concatenate([np.arange(1000), np.random.default_rng(0).integers(2**62, size=1000)])
    bits = random_bits_tensor(*key, index=torch.from_numpy(index))
    assert np.array_equal(bits.numpy().view(np.uint64), random_bits(*key, index=index))


@pytest.mark.parametrize("byte", range(8))
def test_every_byte_is_uniform(byte: int) -> None:
    drawn = random_bits(0, VIEW, 0, index=np.arange(256_000)).view(np.uint8).reshape(-1, 8)[:, byte]
    counts = np.bincount(drawn, minlength=256)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert 120 < chi_square < 390  # 255 degrees of freedom: six standard deviations on both sides


def test_views_of_a_crop_and_flip_are_uniform() -> None:
    counts = np.bincount((random_bits(0, VIEW, 7, index=np.arange(162_000)) % np.uint64(162)).astype(int))
    assert len(counts) == 162
    assert ((counts - 1000) ** 2 / 1000).sum() < 161 + 6 * np.sqrt(2 * 161)


def test_permutation_has_every_element_once() -> None:
    index = np.array([3, 1, 41, 5, 9, 26])
    assert sorted(permutation(0, ORDER, 0, index=index).tolist()) == [1, 3, 5, 9, 26, 41]


def test_permutation_does_not_depend_on_the_order_given() -> None:
    index = np.arange(50)
    assert np.array_equal(permutation(1, ORDER, 2, index=index), permutation(1, ORDER, 2, index=index[::-1].copy()))


def test_permutation_puts_every_element_everywhere() -> None:
    firsts = [int(permutation(seed, ORDER, 0, index=np.arange(10))[0]) for seed in range(5000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 9 + 6 * np.sqrt(18)


def test_every_process_has_its_own_step_seeds_and_the_first_those_of_a_run_in_one() -> None:
    seeds = [step_seed(5, step, rank) for step in range(100) for rank in range(8)]
    assert len(set(seeds)) == 800
    assert seeds[::8] == [step_seed(5, step) for step in range(100)]


def test_step_seed_is_a_seed_that_torch_takes() -> None:
    seeds = [step_seed(seed, step) for seed in (0, 1, 2**63 - 1) for step in range(1000)]
    assert len(set(seeds)) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)
