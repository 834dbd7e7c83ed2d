"""Normalisation on the CPU: batch norm by two-pass statistics, and LRN, in chunks of pixels.

Batch norm reads x three times: for the mean, for the variance around that mean (which, unlike
E[x²] - E[x]², survives a mean far from zero), and to normalise. Every sum is one of chunks in
order, so the bits do not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import spec
from ..spec import LRN, BatchNorm, Config
from ..spec.contract import Array, InOut, Out
from .compute import (
    CHUNK,
    by_channel,
    column_sums,
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

ROWS = CHUNK // 2  # elements of one operand: the gradient holds five of them in cache


def _channel_sums(
    x: np.ndarray, count: int, chunk_sums: Callable[[int, int, np.ndarray], None]
) -> np.ndarray:
    """Sum `count` vectors [C] over pixels; `chunk_sums(i, j, sums)` sums pixels i … j - 1."""
    size = rows_per_chunk(x.shape[1], ROWS)
    sums = np.zeros((-(-len(x) // size), count, x.shape[1]), wide_type(x.dtype))
    for_chunks(len(x), size, lambda i, j: chunk_sums(i, j, sums[i // size]))
    return np.add.reduce(sums, axis=0)


def _scratch(name: str, like: np.ndarray) -> np.ndarray:
    return scratch(name, like.shape, wide_type(like.dtype))


@spec.implements(spec.batch_norm_training)
@np.errstate(all="ignore")
def batch_norm_training(
    x: Array,
    gamma: Array,
    beta: Array,
    out: Out,
    mean: Out,
    invstd: Out,
    running_mean: InOut,
    running_var: InOut,
    *,
    op: BatchNorm,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Statistics of the batch, the running ones, and the normalised batch."""
    rows = pixels(x)
    count = len(rows)
    if count == 0:
        mean.fill(0)
        invstd.fill(0)
        return

    def sum_values(i: int, j: int, sums: np.ndarray) -> None:
        sums[0] = column_sums(np.ascontiguousarray(widen(rows[i:j])))

    def sum_squares(i: int, j: int, sums: np.ndarray) -> None:
        deviation = _scratch("deviation", rows[i:j])
        by_channel(np.subtract, rows[i:j], means, deviation)
        sums[0] = column_sums(np.multiply(deviation, deviation, out=deviation))

    np.divide(_channel_sums(rows, 1, sum_values)[0], count, out=mean)
    means = repeated(mean)
    squares = _channel_sums(rows, 1, sum_squares)[0]
    np.divide(1.0, np.sqrt(squares / count + op.eps), out=invstd)
    running_mean *= 1.0 - op.momentum
    running_mean += op.momentum * mean
    running_var *= 1.0 - op.momentum
    running_var += op.momentum / (count - 1) * squares
    _normalise(rows, mean, gamma * invstd, beta, pixels(out), relu)


@spec.implements(spec.batch_norm_inference)
@np.errstate(all="ignore")
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    out: Out,
    *,
    op: BatchNorm,
    relu: bool = False,
) -> None:
    """Normalise by the running statistics."""
    scale = gamma / np.sqrt(running_var + op.eps)
    _normalise(pixels(x), running_mean, scale, beta, pixels(out), relu)


def _normalise(
    x: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray,
    relu: bool,
) -> None:
    """out = (x - mean) * scale + beta, then max(0, ·) if `relu`; pixels [M,C]."""

    means, scales, betas = repeated(mean), repeated(scale), repeated(beta)

    def run(i: int, j: int) -> None:
        y = out[i:j] if out.dtype == mean.dtype else _scratch("y", x[i:j])
        by_channel(np.subtract, x[i:j], means, y)
        by_channel(np.multiply, y, scales, y)
        by_channel(np.add, y, betas, y)
        if relu:
            np.maximum(y, 0, out=y)
        if y.dtype != out.dtype:
            store(y, out[i:j])

    for_chunks(len(x), rows_per_chunk(x.shape[1], ROWS), run)


@spec.implements(spec.batch_norm_backward)
@np.errstate(all="ignore")
def batch_norm_backward(
    x: Array,
    dy: Array,
    gamma: Array,
    mean: Array,
    invstd: Array,
    out: Out,
    dgamma: Out,
    dbeta: Out,
    *,
    op: BatchNorm,
    mask: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """One pass for dgamma and dbeta, one for dx, which needs both."""
    rows, given, dx = pixels(x), pixels(dy), pixels(out)
    alive = None if mask is None else pixels(mask)
    count = max(1, len(rows))

    means, invstds = repeated(mean), repeated(invstd)

    def masked(i: int, j: int) -> np.ndarray:
        g = _scratch("gradient", given[i:j])
        np.copyto(g, given[i:j])
        if alive is not None:
            select(g, ~(alive[i:j] <= alive.dtype.type(0)), g)
        return g

    def normal(i: int, j: int) -> np.ndarray:
        xhat = by_channel(np.subtract, rows[i:j], means, _scratch("normal", rows[i:j]))
        return by_channel(np.multiply, xhat, invstds, xhat)

    def sum_gradients(i: int, j: int, sums: np.ndarray) -> None:
        g, xhat = masked(i, j), normal(i, j)
        sums[0] = column_sums(g)
        sums[1] = column_sums(np.multiply(xhat, g, out=xhat))

    dbeta[:], dgamma[:] = _channel_sums(rows, 2, sum_gradients)
    scales = repeated(gamma * invstd)
    mean_dy, mean_dyx = repeated(dbeta / count), repeated(dgamma / count)

    def run(i: int, j: int) -> None:
        g, xhat = masked(i, j), normal(i, j)
        by_channel(np.multiply, xhat, mean_dyx, xhat)
        by_channel(np.subtract, g, mean_dy, g)
        g -= xhat
        by_channel(np.multiply, g, scales, g)
        store(g, dx[i:j])

    for_chunks(len(rows), rows_per_chunk(rows.shape[1], ROWS), run)


def _window_sums(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """Sums of [M, C] over channels c - before … c + after, those outside counting as zero."""
    c = values.shape[1]
    sums = values.copy()
    for shift in range(1, min(before, c - 1) + 1):
        sums[:, shift:] += values[:, : c - shift]
    for shift in range(1, min(after, c - 1) + 1):
        sums[:, : c - shift] += values[:, shift:]
    return sums


def _response(x: np.ndarray, op: LRN) -> np.ndarray:
    """k + alpha / size * the window's sum of x²."""
    response = _window_sums(x * x, op.size // 2, (op.size - 1) // 2)
    response *= op.alpha / op.size
    response += op.k
    return response


@spec.implements(spec.lrn)
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """out = x * response ** -beta."""
    rows, y = pixels(x), pixels(out)

    def run(i: int, j: int) -> None:
        values = widen(rows[i:j])
        power = _response(values, op)
        np.power(power, -op.beta, out=power)
        power *= values
        store(power, y[i:j])

    for_chunks(len(rows), rows_per_chunk(rows.shape[1], ROWS), run)


@spec.implements(spec.lrn_backward)
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """dx = dy * d^-beta - 2 alpha beta / size * x * sum of dy * x * d^(-beta - 1), d the response.

    The sum runs over the channels whose windows contain this one: the window, mirrored.
    """
    rows, given, dx = pixels(x), pixels(dy), pixels(out)

    def run(i: int, j: int) -> None:
        values, g = widen(rows[i:j]), widen(given[i:j])
        response = _response(values, op)
        direct = np.power(response, -op.beta)
        direct *= g
        np.divide(direct, response, out=response)
        response *= values
        sums = _window_sums(response, (op.size - 1) // 2, op.size // 2)
        sums *= values
        sums *= 2.0 * op.alpha * op.beta / op.size
        direct -= sums
        store(direct, dx[i:j])

    for_chunks(len(rows), rows_per_chunk(rows.shape[1], ROWS), run)
