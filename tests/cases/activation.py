"""Calls of the activations besides ReLU, some in place, with NaN, infinities and both zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from calls import DTYPES, Call

from cnnengine.kernels.spec import Clip, LeakyRelu, accumulator

from .draw import ALL, Draw, fuzzer, rms
from .elementwise import rough

Shape = tuple[int, ...]

LISTED: dict[str, Shape] = {
    "primes": (2, 5, 3, 7),
    "one_element": (1,),
    "one_row": (1, 1, 13, 3),
    "one_class": (37, 1),
    "thousand_classes": (3, 1000),
    "channels_131": (2, 1, 2, 131),
    "past_a_block": (3, 11, 67),
    "six_axes": (2, 1, 3, 2, 2, 5),
    "empty_batch": (0, 4, 3),
}
BOUNDS = (  # all of them numbers of every type
    *(Clip(0.0, 6.0), Clip(-0.5, 0.5), Clip(low=-0.25), Clip(high=0.75), Clip()),
    *(Clip(1.0, 1.0), Clip(0.5, -0.5)),
)
SLOPES = (0.0, 0.01, 0.25, 1.0, 1.5, -0.3)


def leaks(draw: Draw, shape: Shape, dtype: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The leaky functions; where a slope is 0 there is no infinity, of which it would make NaN."""
    slope = draw.pick(*SLOPES)
    make = rough if slope else draw.normal
    x, dy = (make(*(() if slope == 0 else (draw,)), shape, dtype) for _ in range(2))
    yield "leaky_relu", {"x": x, "op": LeakyRelu(slope)}
    yield "leaky_relu_backward", {"dy": dy, "x": x, "op": LeakyRelu(slope)}
    count = 1 if draw.chance(0.3) else shape[-1]
    slopes = draw.normal((count,), accumulator(dtype))
    x, dy = rough(draw, shape, dtype), rough(draw, shape, dtype)
    yield "prelu", {"x": x, "slope": slopes}
    yield "prelu_backward", {"dy": dy, "x": x, "slope": slopes}


def softmaxes(draw: Draw, shape: Shape, dtype: str) -> Iterator[Call]:
    """Softmax or its logarithm, and the gradient from what float64 gives."""
    log, k = draw.chance(0.5), shape[-1]
    x = draw.normal(shape, dtype, scale=draw.pick(0.1, 1.0, 10.0))
    inputs: dict[str, Any] = {"log": True} if log else {}
    # the logarithm of a sure class is the difference of two numbers near a logit
    floor = {"out": rms(x) + math.log(k) if log else 1 / math.sqrt(k)}
    call = Call(draw.label, "softmax", {"x": x, **inputs}, ("out",), dtype, None, k, floor)
    yield call
    y, dy = call.oracle()["out"].astype(DTYPES[dtype]), draw.normal(shape, dtype)
    shares = np.exp(y.astype(np.float64)) if log else y
    size = rms(dy) * rms(shares) * math.sqrt(k)
    floor = {"out": math.hypot(rms(dy), size) if log else size}
    inputs = {"dy": dy, "y": y, **inputs}
    yield Call(draw.label, "softmax_backward", inputs, ("out",), dtype, None, k, floor)


def calls(draw: Draw, shape: Shape, dtype: str) -> Iterator[Call]:
    """Every activation on one shape."""

    def flat(function: str, inputs: dict[str, Any], *aliases: str, **more: Any) -> Call:
        alias = {"out": draw.pick(*aliases)} if draw.chance(0.4) else {}
        return Call(draw.label, function, inputs, ("out",), dtype, alias=alias, **more)

    op = draw.pick(*BOUNDS)
    x, dy = rough(draw, shape, dtype), rough(draw, shape, dtype)
    x = np.where(draw.rng.random(shape) < 0.2, np.float64(op.low), x).astype(x.dtype)
    yield flat("clip", {"x": x, "op": op}, "x")
    yield flat("clip_backward", {"dy": dy, "x": x, "op": op}, "dy", "x")
    for function, inputs in leaks(draw, shape, dtype):
        values = [v for v in inputs.values() if isinstance(v, np.ndarray)]
        largest = max(rms(v[np.isfinite(v)]) for v in values)
        names = [n for n in ("dy", "x") if n in inputs]
        yield flat(function, inputs, *names, floor={"out": largest})
    yield from softmaxes(draw, shape, dtype)


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls on one listed shape in one type."""
    for turn in range(2):
        yield from calls(Draw(f"activation:{name}:{turn}"), LISTED[name], dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random shape of one to four dimensions."""
    shape = draw.integer(1, 4), draw.integer(1, 5), draw.integer(1, 5), draw.pick(1, 2, 3, 8, 17)
    shape = shape[draw.integer(0, 3) :]
    if draw.chance(0.04) and len(shape) > 1:
        shape = (0, *shape[1:])
    yield from calls(draw, shape, draw.dtype(dtypes))


fuzz = fuzzer("activation", case)
