"""Calls of element-wise functions, some in place, with NaN, infinities and both zeros."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

from cnnengine.kernels.philox import key
from cnnengine.kernels.spec import Dropout

from .draw import ALL, Draw, fuzzer, rms

Shape = tuple[int, ...]

LISTED: dict[str, Shape] = {
    "primes": (2, 5, 3, 7),
    "one_element": (1, 1, 1, 1),
    "one_row": (1, 1, 13, 3),
    "batch_of_one_channel": (37, 2, 3, 1),
    "channels_131": (2, 1, 2, 131),
    "past_a_block": (1, 3, 11, 67),
    "empty_batch": (0, 4, 4, 3),
}
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)


def rough(draw: Draw, shape: Shape, dtype: str) -> np.ndarray:
    """Normal numbers, one in ten replaced by NaN, an infinity or a zero."""
    values = draw.normal(shape, dtype)
    special = draw.rng.choice(SPECIAL, shape).astype(DTYPES[dtype])
    return np.where(draw.rng.random(shape) < 0.1, special, values)


def calls(draw: Draw, shape: Shape, dtype: str, other: str) -> Iterator[Call]:
    """Every element-wise function on one shape; `other` is the type to cast to."""

    def flat(function: str, inputs: dict[str, Any], *aliases: str, **more: Any) -> Call:
        alias = {"out": draw.pick(*aliases)} if aliases and draw.chance(0.4) else {}
        return Call(draw.label, function, inputs, ("out",), dtype, alias=alias, **more)

    ranked = shape[draw.integer(0, 3) :]  # any rank from 1 to 4
    x, y = rough(draw, ranked, dtype), rough(draw, ranked, dtype)
    yield flat("relu", {"x": x}, "x")
    yield flat("relu_backward", {"dy": x, "y": y}, "dy")
    a, b = draw.normal(ranked, dtype), draw.normal(ranked, dtype)
    addition: dict[str, Any] = {"a": a, "b": b}
    if draw.chance(0.5):
        addition["relu"] = True
    yield flat("add", addition, "a", "b", floor={"out": rms(a, b)})
    yield flat("mul", {"a": a, "b": b}, "a", "b", floor={"out": rms(a) * rms(b)})
    seed = draw.integer(0, 2**63 - 1), draw.integer(0, 2**32 - 1), draw.integer(0, 2**32 - 1)
    op = Dropout(draw.pick(0.0, 0.1, 0.5, 0.75, 0.999))
    inputs = {"x": a, "op": op, "key": key(*seed)}
    yield flat("dropout", inputs, "x", floor={"out": rms(a) / (1 - op.p)})
    yield flat("cast", {"x": rough(draw, ranked, dtype)}, types={"out": other})
    yield from slices(draw, shape, dtype)


def slices(draw: Draw, shape: Shape, dtype: str) -> Iterator[Call]:
    """Concat of up to four arrays, and a slice of one."""
    widths = [shape[3]] + [draw.integer(1, 9) for _ in range(draw.integer(0, 3))]
    xs = [rough(draw, (*shape[:3], width), dtype) for width in widths]
    yield Call(draw.label, "concat", {"xs": xs}, ("out",), dtype, pitch=draw.pitches("xs", "out"))
    width = draw.integer(1, shape[3])
    yield Call(
        draw.label,
        "channel_slice",
        {"x": rough(draw, shape, dtype), "offset": draw.integer(0, shape[3] - width)},
        ("out",),
        dtype,
        out_shape=(*shape[:3], width),
        pitch=draw.pitches("x", "out"),
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls on one listed shape in one type, cast to each of the others."""
    for other in ALL:
        yield from calls(Draw(f"elementwise:{name}:{other}"), LISTED[name], dtype, other)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random shape of four dimensions and two random types."""
    n = 0 if draw.chance(0.03) else draw.integer(1, 4)
    shape = (n, draw.integer(1, 5), draw.integer(1, 5), draw.pick(1, 2, 3, 8, 17))
    yield from calls(draw, shape, draw.dtype(dtypes), draw.dtype(dtypes))


fuzz = fuzzer("elementwise", case)
