"""Philox4x32-10: counter-based random numbers, the same on every device.

A stream is named by `(seed, step, stream)`; its i-th number depends on nothing else, so a resumed
run draws exactly what an uninterrupted one would have drawn, in any order, on any backend.

Words of the generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
    key     = (seed low, seed high)
    counter = (i // 4 low, i // 4 high, step, stream), and number i is word i % 4 of the block.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def key(seed: int, step: int, stream: int) -> np.ndarray:
    """The four words that name a stream: uint32[4] = (seed low, seed high, step, stream)."""
    return np.array(
        [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, step & 0xFFFFFFFF, stream & 0xFFFFFFFF],
        dtype=np.uint32,
    )


def philox4x32(counter: np.ndarray, seed_words: tuple[int, int]) -> np.ndarray:
    """Ten rounds on `counter` uint32[M, 4] under two key words; returns uint32[M, 4]."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = seed_words
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def random_bits(stream_key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Numbers `start … start + count - 1` of a stream, uint32[count]; `stream_key` from `key()`."""
    first = start // 4
    blocks = np.arange(first, (start + count + 3) // 4, dtype=np.uint64)
    counter = np.empty((len(blocks), 4), np.uint32)
    counter[:, 0] = (blocks & _LOW).astype(np.uint32)
    counter[:, 1] = (blocks >> _HALF).astype(np.uint32)
    counter[:, 2:] = stream_key[2:]
    words = philox4x32(counter, (int(stream_key[0]), int(stream_key[1]))).reshape(-1)
    return words[start - 4 * first : start - 4 * first + count]


def uniform(stream_key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Uniform numbers in [0, 1), float64[count], one per 32-bit word."""
    return random_bits(stream_key, count, start) * 2.0**-32


def normal(stream_key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """Standard normal numbers `start …` of a stream, float64[count]; `start` is even.

    Box-Muller: words 2i and 2i + 1 make numbers 2i (cosine) and 2i + 1 (sine).
    """
    u = uniform(stream_key, count + count % 2, start).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, 0]))
    angle = 2.0 * np.pi * u[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def permutation(stream_key: np.ndarray, count: int) -> np.ndarray:
    """A random order of `0 … count - 1`, int64[count]: the stable argsort of 64-bit draws."""
    words = random_bits(stream_key, 2 * count).astype(np.uint64).reshape(count, 2)
    return np.argsort((words[:, 0] << _HALF) | words[:, 1], kind="stable")
