"""Calls of batch norm (training, inference, gradient) and local response normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from calls import DTYPES, Call

from cnnengine.bench.verify import oracle
from cnnengine.kernels.spec import LRN, BatchNorm, accumulator

from .draw import ALL, Draw, fuzzer, rms

Shape = tuple[int, ...]

LISTED: dict[str, tuple[Shape, BatchNorm, LRN]] = {
    "primes": ((2, 5, 3, 7), BatchNorm(), LRN()),
    "two_values": ((2, 1, 1, 3), BatchNorm(), LRN(size=3)),
    "two_pixels": ((1, 1, 2, 3), BatchNorm(1e-3, 0.0), LRN(size=1, alpha=1.0)),
    "one_channel": ((3, 4, 4, 1), BatchNorm(1e-5, 1.0), LRN(size=5, alpha=0.1)),
    "even_window": ((2, 3, 4, 9), BatchNorm(0.1), LRN(size=4, alpha=0.5, beta=0.5, k=1.0)),
    "window_past_channels": ((2, 3, 3, 4), BatchNorm(), LRN(size=11, alpha=1.0, beta=1.0, k=1.0)),
    "alexnet": ((1, 6, 6, 37), BatchNorm(), LRN(5, 1e-4, 0.75, 2.0)),
    "many_pixels": ((2, 23, 24, 5), BatchNorm(), LRN(alpha=0.0)),
    "channels_131": ((2, 2, 3, 131), BatchNorm(), LRN(size=2, alpha=0.3, beta=1.5)),
    "empty_batch": ((0, 4, 4, 3), BatchNorm(), LRN()),
}


def spread(draw: Draw, shape: Shape, dtype: str) -> np.ndarray:
    """Values whose variance is not small in any channel (two equal ones would be amplified)."""
    sign = np.resize([1.0, -1.0], shape[:-1])[..., None]
    offset = draw.rng.standard_normal(shape[-1])
    return (sign + 0.5 * draw.rng.standard_normal(shape) + offset).astype(DTYPES[dtype])


def batch_norm(draw: Draw, shape: Shape, op: BatchNorm, dtype: str) -> Iterator[Call]:
    """Training, inference and gradient of one batch norm."""
    sums, count = accumulator(dtype), shape[0] * shape[1] * shape[2]
    channels = (shape[3],)
    x, dy = spread(draw, shape, dtype), draw.normal(shape, dtype)
    vectors = {
        "gamma": draw.normal(channels, sums),
        "beta": draw.normal(channels, sums),
        "running_mean": draw.normal(channels, sums),
        "running_var": np.abs(draw.normal(channels, sums)) + DTYPES[sums].type(0.1),
    }
    relu = {"relu": True} if draw.chance(0.5) else {}
    floor = {"out": rms(vectors["gamma"]) + rms(vectors["beta"])}
    training = Call(
        draw.label,
        "batch_norm_training",
        {"x": x, **vectors, "op": op, **relu},
        ("out", "mean", "invstd", "running_mean", "running_var"),
        dtype,
        reduction=count,
        floor={**floor, "mean": rms(x) / max(1, np.sqrt(count))},
        pitch=draw.pitches("x", "out"),
    )
    yield training
    yield Call(
        draw.label,
        "batch_norm_inference",
        {"x": x, **vectors, "op": op, **relu},
        ("out",),
        dtype,
        floor=floor,
        pitch=draw.pitches("x", "out"),
    )
    found = training.oracle()
    mean, invstd = (found[name].astype(DTYPES[sums]) for name in ("mean", "invstd"))
    back = {
        "x": x,
        "dy": dy,
        "gamma": vectors["gamma"],
        "mean": mean,
        "invstd": invstd,
        "op": op,
    }
    if draw.chance(0.5):
        back["mask"] = draw.normal(shape, dtype) * draw.whole(shape, dtype)
    total = rms(dy) * np.sqrt(count)
    yield Call(
        draw.label,
        "batch_norm_backward",
        back,
        ("out", "dgamma", "dbeta"),
        dtype,
        reduction=count,
        floor={"out": rms(vectors["gamma"] * invstd) * rms(dy), "dgamma": total, "dbeta": total},
        pitch=draw.pitches("x", "dy", "mask", "out"),
    )


def response_norm(draw: Draw, shape: Shape, op: LRN, dtype: str) -> Iterator[Call]:
    """Forward and gradient of one LRN."""
    x, dy = draw.normal(shape, dtype, scale=2.0), draw.normal(shape, dtype)
    yield Call(
        draw.label, "lrn", {"x": x, "op": op}, ("out",), dtype, pitch=draw.pitches("x", "out")
    )
    wide = x.astype(np.float64)
    divisor = np.divide(wide, oracle.lrn(wide, op)["out"], where=wide != 0, out=np.ones(shape))
    yield Call(
        draw.label,
        "lrn_backward",
        {"x": x, "dy": dy, "op": op},
        ("out",),
        dtype,
        reduction=op.size,
        floor={"out": rms(dy.astype(np.float64) / divisor)},
        pitch=draw.pitches("x", "dy", "out"),
    )


def listed(name: str, dtype: str) -> Iterator[Call]:
    """The calls of one listed geometry in one type."""
    shape, batch, response = LISTED[name]
    yield from batch_norm(Draw(f"norm:{name}"), shape, batch, dtype)
    yield from response_norm(Draw(f"norm:{name}"), shape, response, dtype)


def case(draw: Draw, dtypes: tuple[str, ...] = ALL) -> Iterator[Call]:
    """A random shape and random parameters of both normalisations."""
    n = 0 if draw.chance(0.03) else draw.integer(1, 5)
    shape = (n, draw.integer(1, 7), draw.integer(2, 7), draw.pick(1, 2, 3, 5, 8, 16, 19))
    batch = BatchNorm(draw.pick(1e-5, 1e-3, 0.1), draw.pick(0.0, 0.1, 0.5, 1.0))
    response = LRN(
        size=draw.integer(1, 9),
        alpha=draw.pick(0.0, 1e-4, 0.1, 1.0),
        beta=draw.pick(0.5, 0.75, 1.0, 1.5),
        k=draw.pick(0.5, 1.0, 2.0),
    )
    dtype = draw.dtype(dtypes)
    yield from batch_norm(draw, shape, batch, dtype)
    yield from response_norm(draw, shape, response, dtype)


fuzz = fuzzer("norm", case)
