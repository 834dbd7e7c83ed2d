"""Pooling on the CPU: a loop over the taps of the window, each one a whole-block NumPy operation.

Tap (r, s) of every window together is a strided slice of the image, clipped to the windows whose
tap lies inside: padding is never read. Work is cut into blocks of images, or of rows of one large
image, that stay in cache. The gradients run over blocks of input rows and take from every window
that reaches into the block, in tap order, so that no two threads write one pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .. import spec
from ..spec import AvgPool2d, MaxPool2d
from ..spec.contract import Array, Out
from .compute import for_chunks, rows_per_chunk, scratch, select, store, wide_type, widen

BLOCK = 1 << 17  # elements of the larger side of a block; see `compute.CHUNK`

Range = tuple[int, int]  # first and end


def _for_blocks(n: int, rows: int, row: int, task: Callable[[slice, int, int], None]) -> None:
    """Run `task(images, first row, end row)` over blocks; `row`: elements of one row."""
    size = rows_per_chunk(row, BLOCK)
    if size >= rows:
        images = size // max(1, rows)
        for_chunks(n, images, lambda i, j: task(slice(i, j), 0, rows))
        return
    parts = -(-rows // size)

    def run(i: int, j: int) -> None:
        for image, part in (divmod(index, parts) for index in range(i, j)):
            task(slice(image, image + 1), part * size, min(part * size + size, rows))

    for_chunks(n * parts, 1, run)


def _dilation(op: MaxPool2d | AvgPool2d) -> Range:
    return op.dilation if isinstance(op, MaxPool2d) else (1, 1)


@functools.lru_cache(4096)
def _taps(
    op: MaxPool2d | AvgPool2d, axis: int, outputs: Range, inputs: Range
) -> tuple[tuple[int, slice, slice], ...]:
    """(tap, its outputs, the inputs it reads) along one axis, relative to both ranges' starts.

    Output o reads input o * stride + tap * dilation - padding; only pairs inside `outputs` and
    `inputs` (first, end) are kept, and taps without any are left out.
    """
    taps, stride = [], op.stride[axis]
    for tap in range(op.kernel[axis]):
        shift = tap * _dilation(op)[axis] - op.padding[2 * axis]
        first = max(outputs[0], -((shift - inputs[0]) // stride))
        end = min(outputs[1], -((shift - inputs[1]) // stride))
        if first < end:
            start = first * stride + shift - inputs[0]
            stop = (end - 1) * stride + shift - inputs[0] + 1
            written = slice(first - outputs[0], end - outputs[0])
            taps.append((tap, written, slice(start, stop, stride)))
    return tuple(taps)


def _inputs_of(op: MaxPool2d | AvgPool2d, p0: int, p1: int, rows: int) -> Range:
    """The input rows (first, end) that output rows p0 … p1 - 1 read."""
    reach = _dilation(op)[0] * (op.kernel[0] - 1) + 1
    first = p0 * op.stride[0] - op.padding[0]
    return max(0, first), min(rows, (p1 - 1) * op.stride[0] - op.padding[0] + reach)


def _outputs_of(op: MaxPool2d | AvgPool2d, h0: int, h1: int, rows: int) -> Range:
    """The output rows (first, end) whose windows may reach into input rows h0 … h1 - 1."""
    reach = _dilation(op)[0] * (op.kernel[0] - 1) + 1
    first = -((reach - 1 - h0 - op.padding[0]) // op.stride[0])
    return max(0, first), min(rows, (h1 - 1 + op.padding[0]) // op.stride[0] + 1)


@spec.implements(spec.max_pool2d)
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """Maximum over the rows of the window, then over its columns; codes by comparing afterwards."""
    (n, h, w, c), (_, p, q, _) = x.shape, out.shape

    def run(images: slice, p0: int, p1: int) -> None:
        inputs = _inputs_of(op, p0, p1, h)
        block = widen(x[images, inputs[0] : inputs[1]])
        best = _reduce(np.maximum, -np.inf, block, op, (p0, p1), inputs, q)
        store(best, out[images, p0:p1])
        if code is not None:
            _first_maxima(block, best, code[images, p0:p1], op, (p0, p1), inputs)

    _for_blocks(n, p, w * c * op.stride[0], run)


def _reduce(
    combine: np.ufunc,
    identity: float,
    x: np.ndarray,
    op: MaxPool2d | AvgPool2d,
    outputs: Range,
    inputs: Range,
    q: int,
) -> np.ndarray:
    """Combine each window of the block to [n, rows of output, Q, C]: its rows, then its columns."""
    (n, _, w, c), p = x.shape, outputs[1] - outputs[0]
    tall = scratch("tall", (n, p, w, c), x.dtype)
    pairs = [(tall[:, o], x[:, i]) for _, o, i in _taps(op, 0, outputs, inputs)]
    _fold(combine, identity, tall, pairs)
    total = scratch("total", (n, p, q, c), x.dtype)
    pairs = [(total[:, :, o], tall[:, :, i]) for _, o, i in _taps(op, 1, (0, q), (0, w))]
    _fold(combine, identity, total, pairs)
    return total


def _fold(
    combine: np.ufunc, identity: float, total: np.ndarray, pairs: list[tuple[np.ndarray, ...]]
) -> None:
    """total = the combination, in order, of every source with its part of total."""
    whole = 0  # sources that may simply be combined with each other, without the identity
    while whole < min(2, len(pairs)) and pairs[whole][0].shape == total.shape:
        whole += 1
    if whole == 2:
        combine(pairs[0][1], pairs[1][1], out=total)
    else:
        total.fill(identity)
    for part, source in pairs[whole if whole == 2 else 0 :]:
        combine(part, source, out=part)


def _first_maxima(
    x: np.ndarray,
    best: np.ndarray,
    code: np.ndarray,
    op: MaxPool2d,
    outputs: Range,
    inputs: Range,
) -> None:
    """code = how many taps come before the first that equals the maximum (or is NaN, if it is)."""
    (r_taps, s_taps), w, q = op.kernel, x.shape[2], best.shape[2]
    rows = {tap: (o, i) for tap, o, i in _taps(op, 0, outputs, inputs)}
    columns = {tap: (o, i) for tap, o, i in _taps(op, 1, (0, q), (0, w))}
    any_nan = best.size > 0 and np.isnan(np.maximum.reduce(best, axis=None))
    before = scratch("before", best.shape, np.dtype(bool))  # no tap so far is the maximum
    before.fill(True)
    code.fill(0)
    for tap in range(r_taps * s_taps - 1):
        r, s = divmod(tap, s_taps)
        if r in rows and s in columns:
            (po, hi), (qo, wi) = rows[r], columns[s]
            source, part = x[:, hi, wi], before[:, po, qo]
            other = scratch("other", part.shape, np.dtype(bool))
            np.not_equal(source, best[:, po, qo], out=other)
            if any_nan:
                other &= source == source
            part &= other
        code += before.view(np.int8)


@spec.implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """Every tap of every window gives its dy to its pixel where the code names that tap."""
    (n, h, w, c), (_, p, q, _) = out.shape, dy.shape
    apart = op.stride[0] >= op.reach[0] and op.stride[1] >= op.reach[1]  # no pixel has two windows
    tiled = op.stride == op.kernel == op.reach and not any(op.padding)
    covered = tiled and (h, w) == (p * op.kernel[0], q * op.kernel[1])  # every pixel has one

    def run(images: slice, h0: int, h1: int) -> None:
        outputs = _outputs_of(op, h0, h1, p)
        given, codes = dy[images, slice(*outputs)], code[images, slice(*outputs)]
        given = given if apart else widen(given)
        dx = out[images, h0:h1]
        total = dx if given.dtype == dx.dtype else scratch("total", dx.shape, given.dtype)
        if not covered:
            total.fill(0)
        for r, po, hi in _taps(op, 0, outputs, (h0, h1)):
            for s, qo, wi in _taps(op, 1, (0, q), (0, w)):
                asked, pixels = codes[:, po, qo], total[:, hi, wi]
                chosen = scratch("chosen", asked.shape, np.dtype(bool))
                np.equal(asked, r * op.kernel[1] + s, out=chosen)
                part = pixels if apart else scratch("part", asked.shape, given.dtype)
                select(given[:, po, qo], chosen, part)
                if not apart:
                    pixels += part
        if total is not dx:
            store(total, dx)

    _for_blocks(n, h, w * c, run)


def _divisors(op: AvgPool2d, p: int, q: int, h: int, w: int) -> np.ndarray:
    """How many pixels each window averages, [P, Q, 1]."""
    counts = []
    for axis, outputs, size in ((0, p, h), (1, q, w)):
        first = np.arange(outputs) * op.stride[axis] - op.padding[2 * axis]
        end = first + op.kernel[axis]
        if op.count_include_pad:
            counts.append(np.minimum(end, size + op.padding[2 * axis + 1]) - first)
        else:
            counts.append(np.minimum(end, size) - np.maximum(first, 0))
    return np.outer(*counts)[:, :, None]


@spec.implements(spec.avg_pool2d)
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """Sum over the rows of the window, then over its columns, and divide."""
    (n, h, w, c), (_, p, q, _) = x.shape, out.shape
    divisor = _divisors(op, p, q, h, w).astype(wide_type(x.dtype))

    def run(images: slice, p0: int, p1: int) -> None:
        inputs = _inputs_of(op, p0, p1, h)
        block = widen(x[images, inputs[0] : inputs[1]])
        total = _reduce(np.add, 0.0, block, op, (p0, p1), inputs, q)
        total /= divisor[p0:p1]
        store(total, out[images, p0:p1])

    _for_blocks(n, p, w * c * op.stride[0], run)


@spec.implements(spec.avg_pool2d_backward)
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """Spread dy / divisor over the columns of the window, then over its rows."""
    (n, h, w, c), (_, p, q, _) = out.shape, dy.shape
    divisor = _divisors(op, p, q, h, w).astype(wide_type(dy.dtype))

    def run(images: slice, h0: int, h1: int) -> None:
        outputs = _outputs_of(op, h0, h1, p)
        given = widen(dy[images, slice(*outputs)]) / divisor[slice(*outputs)]
        tall = np.zeros((len(given), given.shape[1], w, c), given.dtype)
        for _, o, i in _taps(op, 1, (0, q), (0, w)):
            tall[:, :, i] += given[:, :, o]
        dx = np.zeros((len(given), h1 - h0, w, c), given.dtype)
        for _, o, i in _taps(op, 0, outputs, (h0, h1)):
            dx[:, i] += tall[:, o]
        store(dx, out[images, h0:h1])

    _for_blocks(n, h, w * c, run)


@spec.implements(spec.global_avg_pool2d)
def global_avg_pool2d(x: Array, out: Out) -> None:
    """Sum every row of the image, then the rows, and divide."""
    n, h, w, c = x.shape

    def run(i: int, j: int) -> None:
        total = widen(x[i:j]).sum(axis=2).sum(axis=1)
        total /= h * w
        store(total, out[i:j])

    for_chunks(n, rows_per_chunk(h * w * c), run)


@spec.implements(spec.global_avg_pool2d_backward)
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """Divide once an image, then repeat over its pixels."""
    n, h, w, c = out.shape

    def run(i: int, j: int) -> None:
        share = np.empty((j - i, c), dy.dtype)
        store(widen(dy[i:j]) / (h * w), share)
        np.copyto(out[i:j], share[:, None, None, :])

    for_chunks(n, rows_per_chunk(h * w * c), run)
