"""Clip, leaky ReLU, PReLU, softmax and their gradients on the CPU, in chunks that stay in cache.

Selections work on bits (`compute.select`), so that an infinity passes where it should and vanishes
where it should. Leaky ReLU is its own gradient's formula with x for dy: one function serves all.
"""

from __future__ import annotations

import numpy as np

from .. import spec
from ..spec import Clip, LeakyRelu
from ..spec.contract import Array, Out
from .compute import (
    CHUNK,
    by_channel,
    for_chunks,
    pixels,
    repeated,
    rows_per_chunk,
    scratch,
    select,
    store,
    wide_type,
    widen,
)


def _rounded(number: float, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):  # past the largest number it is infinite
        return np.asarray(number).astype(dtype)


def _bounds(op: Clip, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    return _rounded(op.low, dtype), _rounded(op.high, dtype)


@spec.implements(spec.clip)
def clip(x: Array, out: Out, *, op: Clip) -> None:
    """out = min(max(x, low), high); NumPy's extrema keep NaN."""
    x, out = x.reshape(-1), out.reshape(-1)
    low, high = _bounds(op, x.dtype)

    def run(i: int, j: int) -> None:
        np.maximum(x[i:j], low, out=out[i:j])
        np.minimum(out[i:j], high, out=out[i:j])

    for_chunks(x.size, CHUNK, run)


@spec.implements(spec.clip_backward)
def clip_backward(dy: Array, x: Array, out: Out, *, op: Clip) -> None:
    """out = 0 where x <= low or x >= high, else dy."""
    dy, x, out = dy.reshape(-1), x.reshape(-1), out.reshape(-1)
    low, high = _bounds(op, x.dtype)

    def run(i: int, j: int) -> None:
        outside = x[i:j] <= low
        outside |= x[i:j] >= high
        select(dy[i:j], ~outside, out[i:j])

    for_chunks(x.size, CHUNK, run)


def _leak(dy: np.ndarray, x: np.ndarray, slope: np.ndarray, out: np.ndarray) -> None:
    """out = slope * dy where x <= 0, else dy; rows of channels, slope of one or of each."""
    dy, x, out = pixels(dy), pixels(x), pixels(out)
    wide = wide_type(x.dtype)
    bits = np.dtype(f"u{wide.itemsize}")
    slopes = repeated(slope) if slope.size > 1 else slope

    def run(i: int, j: int) -> None:
        values, falls = widen(dy[i:j]), x[i:j] <= 0
        leaked, kept = (scratch(name, values.shape, wide) for name in ("leaked", "kept"))
        if slope.size > 1:
            by_channel(np.multiply, values, slopes, leaked)
        else:
            np.multiply(values, slopes, out=leaked)
        select(leaked, falls, leaked)  # after the product: 0 times an infinite slope is NaN
        select(values, ~falls, kept)
        result = out[i:j] if out.dtype == wide else leaked
        np.bitwise_or(leaked.view(bits), kept.view(bits), out=result.view(bits))
        if result is leaked:
            store(leaked, out[i:j])

    for_chunks(len(x), rows_per_chunk(x.shape[1], CHUNK // 2), run)  # five operands in cache


@spec.implements(spec.leaky_relu)
def leaky_relu(x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * x where x <= 0, else x."""
    slope = _rounded(op.slope, wide_type(x.dtype))
    _leak(x.reshape(-1, 1), x.reshape(-1, 1), slope, out.reshape(-1, 1))


@spec.implements(spec.leaky_relu_backward)
def leaky_relu_backward(dy: Array, x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * dy where x <= 0, else dy."""
    slope = _rounded(op.slope, wide_type(x.dtype))
    _leak(dy.reshape(-1, 1), x.reshape(-1, 1), slope, out.reshape(-1, 1))


@spec.implements(spec.prelu)
def prelu(x: Array, slope: Array, out: Out) -> None:
    """out = slope * x where x <= 0, else x."""
    _leak(x, x, slope, out)


@spec.implements(spec.prelu_backward)
def prelu_backward(dy: Array, x: Array, slope: Array, out: Out) -> None:
    """out = slope * dy where x <= 0, else dy."""
    _leak(dy, x, slope, out)


@spec.implements(spec.softmax)
def softmax(x: Array, out: Out, *, log: bool = False) -> None:
    """exp(z) / sum exp(z), or its logarithm, for z = x - max x of each row."""
    x, out = pixels(x), pixels(out)

    def run(i: int, j: int) -> None:
        z = widen(x[i:j])
        z = z - z.max(axis=1, keepdims=True)
        powers = np.exp(z)
        sums = powers.sum(axis=1, keepdims=True)
        store(np.subtract(z, np.log(sums), out=z) if log else np.divide(powers, sums), out[i:j])

    for_chunks(len(x), rows_per_chunk(x.shape[1]), run)


@spec.implements(spec.softmax_backward)
def softmax_backward(dy: Array, y: Array, out: Out, *, log: bool = False) -> None:
    """y * (dy - sum dy * y), or dy - exp(y) * sum dy."""
    dy, y, out = pixels(dy), pixels(y), pixels(out)

    def run(i: int, j: int) -> None:
        upstream, value = widen(dy[i:j]), widen(y[i:j])
        if log:
            gradient = np.exp(value)
            gradient *= upstream.sum(axis=1, keepdims=True)
            np.subtract(upstream, gradient, out=gradient)
        else:
            gradient = upstream * value
            sums = gradient.sum(axis=1, keepdims=True)
            np.subtract(upstream, sums, out=gradient)
            gradient *= value
        store(gradient, out[i:j])

    for_chunks(len(y), rows_per_chunk(y.shape[1]), run)
