"""Seeded data for the calls: arrays in storage types, layouts, and the fuzzer's loop."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

ALL = ("float64", "float32", "float16", "bfloat16")
CASES, CHUNK = 300, 30
CHUNKS = range(CASES // CHUNK)


def rms(*arrays: np.ndarray | None) -> float:
    """Root mean square of the values of all arrays (None counts as nothing)."""
    values = [np.asarray(a, np.float64).ravel() for a in arrays if a is not None]
    flat = np.concatenate(values) if values else np.zeros(0)
    return float(np.sqrt(np.mean(flat**2))) if flat.size else 0.0


def sum_floor(terms: int, *factors: np.ndarray, plus: tuple[np.ndarray | None, ...] = ()) -> float:
    """The RMS of a sum of `terms` products with independent signs, plus some addends."""
    product = math.sqrt(terms) * math.prod(rms(f) for f in factors)
    return math.hypot(product, *(rms(p) for p in plus))


class Draw:
    """Random choices of one case: a NumPy generator with the shapes of habit."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.rng = np.random.default_rng(zlib.crc32(label.encode()))

    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def dtype(self, dtypes: tuple[str, ...]) -> str:
        """One of the backend's types; other draws do not depend on which there are."""
        return dtypes[int(self.rng.random() * len(dtypes))]

    def normal(self, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray:
        """Normal numbers, rounded to the storage type."""
        return (scale * self.rng.standard_normal(shape)).astype(DTYPES[dtype])

    def whole(self, shape: tuple[int, ...], dtype: str, most: int = 1) -> np.ndarray:
        """Integers from -most to most: sums of few products are exact, and maxima tie."""
        return self.rng.integers(-most, most + 1, shape).astype(DTYPES[dtype])

    def pitches(self, *names: str) -> dict[str, tuple[int, int]]:
        """For each array, in one case of three, channels before and after it in its buffer."""
        drawn = {}
        for name in names:
            before, after, pitched = self.integer(0, 5), self.integer(0, 5), self.chance(1 / 3)
            if pitched and before + after > 0:
                drawn[name] = (before, after)
        return drawn


def fuzzer(
    family: str, case: Callable[[Draw, tuple[str, ...]], Iterator[Call]]
) -> Callable[..., Iterator[Call]]:
    """`fuzz(chunk, dtypes, every)` of a family: the calls of CHUNK cases, each from its own seed.

    Of every `every` cases one is taken.
    """

    @functools.wraps(case)
    def fuzz(chunk: int, dtypes: tuple[str, ...] = ALL, every: int = 1) -> Iterator[Call]:
        for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            if index % every == 0:
                yield from case(Draw(f"{family}:{index}"), dtypes)

    return fuzz
