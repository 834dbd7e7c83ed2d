"""Calls of transpose, pad, broadcast and reduce_sum, of any rank from 1 to 6."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import Call

from cnnengine.kernels.spec import Pad, accumulator

from .draw import ALL, Draw, fuzzer, rms
from .elementwise import rough

Shape = tuple[int, ...]

# shape, order of the axes, which axes are repeated or summed
LISTED: dict[str, tuple[Shape, Shape, str]] = {
    "nhwc_to_nchw": ((2, 5, 3, 7), (0, 3, 1, 2), "..rr"),
    "nchw_to_nhwc": ((2, 7, 5, 3), (0, 2, 3, 1), "rrr."),
    "matrix": ((17, 67), (1, 0), "r."),
    "matrix_past_a_tile": ((2, 65, 9), (0, 2, 1), ".r."),
    "many_columns": ((70, 3), (1, 0), ".r"),
    "reversed_of_six": ((2, 3, 1, 2, 2, 2), (5, 4, 3, 2, 1, 0), "r.r.r."),
    "mixed_of_six": ((2, 1, 3, 2, 2, 3), (3, 0, 4, 1, 5, 2), ".r.r.r"),
    "as_it_is": ((3, 4, 5), (0, 1, 2), "..."),
    "axes_of_one_element": ((1, 7, 1, 5), (3, 2, 1, 0), "rr.r"),
    "vector": ((131,), (0,), "r"),
    "one_element": ((1, 1), (1, 0), "rr"),
    "all_of_it": ((2, 5, 7, 3), (2, 0, 3, 1), "rrrr"),
    "empty_batch": ((0, 4, 3), (1, 0, 2), ".r."),
    "sums_of_nothing": ((3, 0, 5), (2, 0, 1), "rr."),
}


def padding(draw: Draw, shape: Shape) -> Pad:
    """Up to three elements more or fewer on each side; sometimes nothing is left of an axis."""
    before, after = [], []
    for n in shape:
        first = draw.integer(-min(3, n), 3) if draw.chance(0.6) else 0
        last = draw.integer(max(-3, -n - first), 3) if draw.chance(0.6) else 0
        before.append(first)
        after.append(last)
    return Pad(tuple(before), tuple(after), draw.pick(0.0, 0.5, -2.0, math.inf, -math.inf))


def calls(draw: Draw, shape: Shape, axes: Shape, kinds: str, dtype: str) -> Iterator[Call]:
    """Every function on one shape; `kinds` has an "r" for each axis that is repeated or summed."""

    def call(function: str, inputs: dict[str, Any], **more: Any) -> Call:
        return Call(draw.label, function, inputs, ("out",), dtype, **more)

    x = rough(draw, shape, dtype)
    yield call("transpose", {"x": x, "axes": axes})
    yield call("pad", {"x": x, "op": padding(draw, shape)})
    small = tuple(1 if kind == "r" else n for kind, n in zip(kinds, shape, strict=True))
    yield call("broadcast", {"x": rough(draw, small, dtype)}, out_shape=shape)
    yield from sums(draw, shape, kinds, dtype)


def sums(draw: Draw, shape: Shape, kinds: str, dtype: str) -> Iterator[Call]:
    """The sums along the axes with an "r", in the type of x or of sums."""
    small = tuple(1 if kind == "r" else n for kind, n in zip(kinds, shape, strict=True))
    terms = max(1, math.prod(shape) // max(1, math.prod(small)))
    x = draw.normal(shape, dtype)
    types = {"out": accumulator(dtype)} if draw.chance(0.5) else {}
    floor = {"out": rms(x) * np.sqrt(terms)}
    yield Call(
        *(draw.label, "reduce_sum", {"x": x}, ("out",), dtype),
        **{"out_shape": small, "reduction": terms, "floor": floor, "types": types},
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls on one listed shape in one type."""
    yield from calls(Draw(f"shape:{name}"), *LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random shape of one to six dimensions."""
    rank = draw.integer(1, 6)
    most = {1: 300, 2: 40, 3: 12, 4: 7}.get(rank, 4)
    shape = tuple(1 if draw.chance(0.2) else draw.integer(1, most) for _ in range(rank))
    if draw.chance(0.04):
        shape = (0, *shape[1:])
    axes = tuple(int(axis) for axis in draw.rng.permutation(rank))
    kinds = "".join(draw.pick("r", ".") for _ in range(rank))
    yield from calls(draw, shape, axes, kinds, draw.dtype(dtypes))


fuzz = fuzzer("shape", case)
