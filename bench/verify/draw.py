"""Fresh random arrays for a call: everything follows from a seed and the call's label."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...engine.device import numpy_dtype
from ...kernels.spec import Conv2d, accumulator
from .guarded import blank

Shape = tuple[int, ...]
Lie = Callable[[np.ndarray], np.ndarray]
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)
PRECISIONS = ("tf32x3", "tf32")  # of float32 products


class Draw:
    """Random choices for one call in one type or precision (`kind`)."""

    def __init__(self, seed: int, label: str, kind: str) -> None:
        """The choices of `label` under `seed`; they do not depend on other calls."""
        self.rng = np.random.default_rng([seed, zlib.crc32(f"{label}/{kind}".encode())])
        self.precision: Any = kind if kind in PRECISIONS else "ieee"
        self.dtype = "float32" if kind in PRECISIONS else kind
        self.sums = accumulator(self.dtype)
        self.everything = False  # that a call can ask for is asked for

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def option(self, probability: float) -> bool:
        """Whether a call asks for something that it can do without."""
        return self.chance(probability) or self.everything

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def normal(self, shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
        """Normal numbers in the storage type."""
        wide = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        return wide.astype(numpy_dtype(self.dtype))

    def whole(self, shape: Sequence[int], most: int = 1) -> np.ndarray:
        """Whole numbers from -most to most: sums are exact and maxima tie."""
        return self.rng.integers(-most, most + 1, shape).astype(numpy_dtype(self.dtype))

    def rough(self, shape: Sequence[int]) -> np.ndarray:
        """Normal numbers, one in ten replaced by NaN, an infinity or a zero."""
        special = self.rng.choice(SPECIAL, shape).astype(numpy_dtype(self.dtype))
        return np.where(self.rng.random(shape) < 0.1, special, self.normal(shape))

    def maybe_nan(self, array: np.ndarray) -> np.ndarray:
        """The array, in one case of three with a NaN at one of its places."""
        if array.size and self.chance(1 / 3):
            array[tuple(int(self.rng.integers(n)) for n in array.shape)] = np.nan
        return array

    def vector(self, count: int) -> np.ndarray:
        """Normal numbers in the type of sums: a bias, or one number for each channel."""
        return self.rng.standard_normal(count).astype(self.sums)

    def wide_vector(self, *values: float) -> np.ndarray:
        """Given numbers in the type of sums."""
        return np.array(values, self.sums)

    def out(self, shape: Sequence[int], dtype: str | None = None) -> np.ndarray:
        """An output of the storage type, or of `dtype`."""
        return blank(tuple(shape), dtype or self.dtype)

    def layout(self, op: Conv2d, border: str = "") -> tuple[Lie, Lie]:
        """How the images of one convolution lie: those that are read, and those beside them.

        One case of four has borders of zeros around them, as wide as the padding or wider; `border`
        "all" or "read" has them always, "read" around the first ones alone.
        """
        if not (border or self.chance(1 / 4)):
            return self.maybe_pitched, self.maybe_pitched
        more = self.pick((0, 0), (0, 0), (1, 2))
        rows, columns = max(op.padding[:2]) + more[0], max(op.padding[2:]) + more[1]

        def bordered(array: np.ndarray) -> np.ndarray:
            n, h, w, c = array.shape
            whole = np.zeros((n, h + rows, w + columns, c), array.dtype)
            whole[:, :h, :w] = array
            return whole[:, :h, :w]

        return bordered, self.maybe_pitched if border == "read" else bordered

    def maybe_pitched(self, array: np.ndarray) -> np.ndarray:
        """The array, in one case of three as channels of a wider one."""
        if not self.chance(1 / 3):
            return array
        channels, more = array.shape[-1], int(self.rng.integers(1, 10))
        wide = np.zeros((*array.shape[:-1], channels + more), array.dtype)
        cut = wide[..., more // 2 : more // 2 + channels]
        cut[...] = array
        return cut
