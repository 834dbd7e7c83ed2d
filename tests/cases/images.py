"""Calls of what happens to pictures: moves, also out of sight, and normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

from cnnengine.kernels.spec import accumulator

from .draw import ALL, Draw, fuzzer

Shape = tuple[int, ...]
LISTED: dict[str, Shape] = {
    "primes": (2, 5, 3, 7),
    "one_pixel": (1, 1, 1, 1),
    "one_row": (3, 1, 13, 3),
    "one_column": (2, 11, 1, 1),
    "past_a_block": (2, 23, 17, 3),
    "empty_batch": (0, 4, 4, 3),
}
FAR = (-(2**30), 2**30, -5, 5)  # also farther than any image is large


def calls(draw: Draw, shape: Shape, dtype: str) -> Iterator[Call]:
    """Pictures that move, most of them a little."""
    n, c = shape[0], shape[3]
    wide = DTYPES[accumulator(dtype)]
    mean = (255 * draw.rng.random(c)).astype(wide)
    inputs: dict[str, Any] = {
        "images": draw.rng.integers(0, 256, shape).astype(np.uint8),
        "moves": None,
        "mean": mean,
        "scale": (0.02 * (0.1 + draw.rng.random(c))).astype(wide),
    }
    if draw.chance(0.8):
        moves = np.stack([draw.rng.integers(-2, 3, n) for _ in range(3)], axis=1).astype(np.int32)
        far = draw.rng.random((n, 2)) < 0.1
        moves[:, :2][far] = draw.rng.choice(FAR, int(far.sum()))
        moves[:, 2] = draw.rng.choice((0, 0, 1, -7), n)
        inputs["moves"] = moves
    floor = {"out": float(np.abs(mean * inputs["scale"]).max(initial=0.0))}
    yield Call(draw.label, "normalise", inputs, ("out",), dtype, floor=floor)


def listed(name: str, dtype: str) -> Iterator[Call]:
    """Two batches of one listed shape in one type."""
    for number in range(2):
        yield from calls(Draw(f"images:{name}:{number}"), LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A small batch of any shape and type."""
    shape = (draw.integer(1, 3), draw.integer(1, 6), draw.integer(1, 6), draw.pick(1, 3, 4))
    yield from calls(draw, shape, draw.dtype(dtypes))


fuzz = fuzzer("images", case)
