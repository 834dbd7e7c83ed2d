from __future__ import annotations

import numpy as np
import pytest

from cnnengine.bench.verify.oracle.elementwise import philox4x32, philox_number
from cnnengine.kernels import philox

# counter, key and result, as published with the generator (Random123, kat_vectors)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox4x32__known_answers(counter, key, result):
    block = philox.philox4x32(np.array([counter], np.uint32), key)
    assert tuple(int(word) for word in block[0]) == result
    assert philox4x32(counter, key) == result


def test_key__splits_the_seed_into_words():
    words = philox.key(0x0123456789ABCDEF, 7, 11)
    assert words.dtype == np.uint32
    assert words.tolist() == [0x89ABCDEF, 0x01234567, 7, 11]


@pytest.mark.parametrize("start", [0, 1, 5, 4 * 2**32 - 6])
def test_random_bits__are_the_scalar_generator(start):
    stream = philox.key(99 + 2**40, 3, 2)
    words = philox.random_bits(stream, 21, start)
    assert [int(word) for word in words] == [philox_number(stream, start + i) for i in range(21)]


@pytest.mark.parametrize(("start", "count"), [(0, 1), (1, 6), (3, 9), (4, 4), (7, 0), (15, 2)])
def test_random_bits__start_cuts_from_one_stream(start, count):
    stream = philox.key(1, 2, 3)
    whole = philox.random_bits(stream, 32)
    assert np.array_equal(philox.random_bits(stream, count, start), whole[start : start + count])
    uniform = philox.uniform(stream, count, start)
    assert np.array_equal(uniform, philox.uniform(stream, 32)[start : start + count])


def test_random_bits__streams_differ():
    names = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)]
    drawn = {philox.random_bits(philox.key(*name), 8).tobytes() for name in names}
    assert len(drawn) == len(names)


def test_uniform__is_uniform():
    u = philox.uniform(philox.key(5, 0, 0), 40_000)
    assert u.min() >= 0
    assert u.max() < 1
    counts, _ = np.histogram(u, 16, (0, 1))
    chi2 = ((counts - 2500.0) ** 2 / 2500.0).sum()  # 15 degrees of freedom: above 44 once in 10^4
    assert chi2 < 44
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(40_000)


@pytest.mark.parametrize("count", [40_000, 39_999])
def test_normal__has_the_moments_of_a_normal(count):
    z = philox.normal(philox.key(6, 0, 0), count)
    assert z.shape == (count,)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 4 * np.sqrt(variance / count)


def test_normal__of_nothing_and_of_one():
    assert philox.normal(philox.key(6, 0, 0), 0).shape == (0,)
    assert np.isfinite(philox.normal(philox.key(6, 0, 0), 1)).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_permutation__holds_every_number_once(count):
    order = philox.permutation(philox.key(8, 1, 0), count)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(count))


def test_permutation__has_no_favourite_place():
    places = np.zeros((5, 5))
    for step in range(500):
        places[np.arange(5), philox.permutation(philox.key(8, step, 0), 5)] += 1
    assert ((places - 100) ** 2 / 100).sum() < 45  # 16 degrees of freedom: above 45 once in 10^4
