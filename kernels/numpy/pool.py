"""Pooling on the CPU: a loop over the taps of the window, each one a whole-block NumPy operation.

Tap (r, s) of every window together is a strided slice of the image, clipped to the windows whose
tap lies inside: padding is never read. Work is cut into blocks of images, or of rows of one large
image, that stay in cache. The gradients run over blocks of input rows and take from every window
that reaches into the block, in tap order, so that no two threads write one pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .. import spec
from ..spec import AvgPool2d, MaxPool2d
from ..spec.contract import Array, Out
from .compute import for_chunks, rows_per_chunk, select, store, wide_type, widen

BLOCK = 1 << 15  # elements of the larger side of a block


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


def _dilation(op: MaxPool2d | AvgPool2d) -> tuple[int, int]:
    return op.dilation if isinstance(op, MaxPool2d) else (1, 1)


def _taps(
    op: MaxPool2d | AvgPool2d, axis: int, outputs: tuple[int, int], inputs: tuple[int, int]
) -> Iterator[tuple[int, slice, slice]]:
    """(tap, its outputs, the inputs it reads) along one axis, relative to both ranges' starts.

    Output o reads input o * stride + tap * dilation - padding; only pairs inside `outputs` and
    `inputs` (first, end) are kept, and taps without any are left out.
    """
    stride = op.stride[axis]
    for tap in range(op.kernel[axis]):
        shift = tap * _dilation(op)[axis] - op.padding[2 * axis]
        first = max(outputs[0], -((shift - inputs[0]) // stride))
        end = min(outputs[1], -((shift - inputs[1]) // stride))
        if first < end:
            start = first * stride + shift - inputs[0]
            stop = (end - 1) * stride + shift - inputs[0] + 1
            yield tap, slice(first - outputs[0], end - outputs[0]), slice(start, stop, stride)


def _inputs_of(op: MaxPool2d | AvgPool2d, p0: int, p1: int, rows: int) -> tuple[int, int]:
    """The input rows (first, end) that output rows p0 … p1 - 1 read."""
    reach = _dilation(op)[0] * (op.kernel[0] - 1) + 1
    first = p0 * op.stride[0] - op.padding[0]
    return max(0, first), min(rows, (p1 - 1) * op.stride[0] - op.padding[0] + reach)


def _outputs_of(op: MaxPool2d | AvgPool2d, h0: int, h1: int, rows: int) -> tuple[int, int]:
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
        best = _maxima(block, op, (p0, p1), inputs, q)
        store(best, out[images, p0:p1])
        if code is not None:
            _first_maxima(block, best, code[images, p0:p1], op, (p0, p1), inputs)

    _for_blocks(n, p, w * c * op.stride[0], run)


def _maxima(
    x: np.ndarray, op: MaxPool2d, outputs: tuple[int, int], inputs: tuple[int, int], q: int
) -> np.ndarray:
    """The maximum of each window of the block, [n, rows of output, Q, C]; NaN wins."""
    n, _, w, c = x.shape
    tall = np.full((n, outputs[1] - outputs[0], w, c), -np.inf, x.dtype)
    for _, o, i in _taps(op, 0, outputs, inputs):
        np.maximum(tall[:, o], x[:, i], out=tall[:, o])
    best = np.full((n, outputs[1] - outputs[0], q, c), -np.inf, x.dtype)
    for _, o, i in _taps(op, 1, (0, q), (0, w)):
        np.maximum(best[:, :, o], tall[:, :, i], out=best[:, :, o])
    return best


def _first_maxima(
    x: np.ndarray,
    best: np.ndarray,
    code: np.ndarray,
    op: MaxPool2d,
    outputs: tuple[int, int],
    inputs: tuple[int, int],
) -> None:
    """code = how many taps come before the first that equals the maximum (or is NaN, if it is)."""
    (r_taps, s_taps), w, q = op.kernel, x.shape[2], best.shape[2]
    rows = {tap: (o, i) for tap, o, i in _taps(op, 0, outputs, inputs)}
    columns = {tap: (o, i) for tap, o, i in _taps(op, 1, (0, q), (0, w))}
    any_nan = bool(np.isnan(best).any())
    before = np.ones(best.shape, bool)  # no tap so far is the maximum
    code.fill(0)
    for tap in range(r_taps * s_taps - 1):
        r, s = divmod(tap, s_taps)
        if r in rows and s in columns:
            (po, hi), (qo, wi) = rows[r], columns[s]
            at, here = (slice(None), po, qo), (slice(None), hi, wi)
            other = x[here] != best[at]
            if any_nan:
                other &= x[here] == x[here]
            before[at] &= other
        code += before.view(np.int8)


@spec.implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """Every tap of every window gives its dy to its pixel where the code names that tap."""
    (n, h, w, c), (_, p, q, _) = out.shape, dy.shape
    apart = op.stride[0] >= op.reach[0] and op.stride[1] >= op.reach[1]  # no pixel has two windows

    def run(images: slice, h0: int, h1: int) -> None:
        outputs = _outputs_of(op, h0, h1, p)
        given, codes = dy[images, slice(*outputs)], code[images, slice(*outputs)]
        given = given if apart else widen(given)
        dx = out[images, h0:h1]
        total = dx if given.dtype == dx.dtype else np.empty(dx.shape, given.dtype)
        total.fill(0)
        for r, po, hi in _taps(op, 0, outputs, (h0, h1)):
            for s, qo, wi in _taps(op, 1, (0, q), (0, w)):
                at, here = (slice(None), po, qo), (slice(None), hi, wi)
                chosen = codes[at] == r * op.kernel[1] + s
                if apart:
                    select(given[at], chosen, total[here])
                else:
                    part = np.empty(chosen.shape, given.dtype)
                    select(given[at], chosen, part)
                    total[here] += part
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
        tall = np.zeros((len(block), p1 - p0, w, c), block.dtype)
        for _, o, i in _taps(op, 0, (p0, p1), inputs):
            tall[:, o] += block[:, i]
        total = np.zeros((len(block), p1 - p0, q, c), block.dtype)
        for _, o, i in _taps(op, 1, (0, q), (0, w)):
            total[:, :, o] += tall[:, :, i]
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
