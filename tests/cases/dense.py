"""Calls of dense layers: forward, both gradients, bias gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import Call

from cnnengine.kernels.spec import accumulator

from .draw import ALL, Draw, fuzzer, rms, sum_floor

LISTED = {  # N, C, K
    "primes": (3, 13, 7),
    "one_each": (1, 1, 1),
    "one_image": (1, 67, 33),
    "one_output": (5, 33, 1),
    "one_feature": (5, 1, 33),
    "eights": (8, 64, 16),
    "past_a_tile": (131, 37, 35),
    "long_sum": (2, 1031, 3),
    "empty_batch": (0, 5, 4),
}


def calls(draw: Draw, sizes: tuple[int, int, int], dtype: str) -> Iterator[Call]:
    """Every dense function on one geometry."""
    n, c, k = sizes
    x, w, dy = draw.normal((n, c), dtype), draw.normal((k, c), dtype), draw.normal((n, k), dtype)
    b = draw.normal((k,), accumulator(dtype)) if draw.chance(0.7) else None
    forward: dict[str, Any] = {"x": x, "w": w, "b": b}
    if draw.chance(0.5):
        forward["relu"] = True
    floor = {"out": sum_floor(c, x, w, plus=(b,))}
    yield Call(draw.label, "dense", forward, ("out",), dtype, reduction=c, floor=floor)
    back = {"dy": dy, "w": w}
    if draw.chance(0.5):
        back["mask"] = draw.normal((n, c), dtype) * draw.whole((n, c), dtype)
    size = sum_floor(k, dy, w)
    yield Call(
        draw.label,
        "dense_dgrad",
        back,
        ("out", "db") if draw.chance(0.5) else ("out",),
        dtype,
        reduction=k,
        floor={"out": size, "db": size * np.sqrt(n)},
        kinds={"db": dtype},  # it may sum dx before or after it is rounded
    )
    floor = {"out": sum_floor(n, x, dy)}
    yield Call(
        draw.label, "dense_wgrad", {"x": x, "dy": dy}, ("out",), dtype, reduction=n, floor=floor
    )
    middle = (draw.integer(1, 6), draw.integer(1, 6)) if draw.chance(0.5) else ()
    dy = draw.normal((n, *middle, k), dtype)
    terms = dy[..., 0].size
    floor = {"out": rms(dy) * np.sqrt(terms)}
    yield Call(draw.label, "bias_grad", {"dy": dy}, ("out",), dtype, reduction=terms, floor=floor)


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls of one listed geometry in one type."""
    yield from calls(Draw(f"dense:{name}"), LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """Random sizes around multiples of 8 and far from them."""
    n = 0 if draw.chance(0.03) else draw.integer(1, 20)
    sizes = n, draw.pick(1, 2, 7, 8, 9, 16, 23, 40), draw.pick(1, 2, 7, 8, 9, 16, 23, 40)
    yield from calls(draw, sizes, draw.dtype(dtypes))


fuzz = fuzzer("dense", case)
