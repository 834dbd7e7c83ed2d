"""Convolution on the CPU: patches in cache-sized blocks, one matrix product each.

Every pass is the same walk. A block of output pixels is taken (whole images, or rows of one), its
patches are gathered into the rows of a matrix ("im2col"), a matrix product forms all of the
block's sums, and bias, residual, ReLU and pooling are applied before the block leaves the cache.

    forward   out [pixels, K]   =  patches of x [pixels, R*S*C]   @  w [R*S*C, K]
    dgrad     dx [pixels, C]    =  patches of dy [pixels, R*S*K]  @  w [R*S*K, C], taps reversed
    wgrad     dw [K, R*S*C]     =  sum over blocks of  dy [pixels, K] transposed  @  patches of x

With a stride, dgrad falls into phases with taps of their own, so that nothing is multiplied in
vain. Edge padding repeats border pixels: dgrad forms the gradient of the padded image and adds the
share of the padding to the pixels that it repeats. A 1x1 convolution of stride 1 needs no
gathering: the pixels are the patches. Wide 3x3 convolutions of stride 1 take Winograd's algorithm.

To read on: `windows.py` (which pixels meet which taps), `im2col.py` (patches), `product.py`
(matrix products), `winograd.py`, `conv_plan.py` (blocks and scratch), `correlate.py` (the walk
of forward and dgrad).

float16 and bfloat16 are read and written as such and computed in float32. `Conv2d.precision` is
about hardware with faster, coarser products: here all three settings form IEEE products.
"""

from __future__ import annotations

import numpy as np

from .. import spec
from ..spec import Config, Conv2d, MaxPool2d
from ..spec.contract import Array, Out
from . import winograd
from .border import zero_border
from .compute import column_sums, for_chunks, rows_per_chunk, select
from .conv_plan import choose, plan
from .correlate import correlate, correlate_folded, forward_weights, run, transposed_weights
from .im2col import Block, gather
from .product import multiply
from .threads import parallel
from .windows import Phase

__all__ = [
    "choose",
    "conv2d",
    "conv2d_dgrad",
    "conv2d_relu_pool",
    "conv2d_relu_pool_backward",
    "conv2d_wgrad",
]


SUMMED = 1 << 15  # numbers that a thread sums at once


@spec.implements(spec.conv2d)
def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    op: Conv2d,
    relu: bool = False,
    residual: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d`: the epilogue follows each block's product, in its place."""
    todo = plan("conv2d", {"x": x, "w": w, "out": out, "op": op, "config": config})
    scratch = todo.scratch(workspace)
    weights = forward_weights(w, op.groups, scratch.shared)
    bias = _repeated(b, out.shape[2])

    def finish(chunk: int, phase: Phase, block: Block, y: Array) -> None:
        _add_bias(y, bias)
        if residual is not None:
            np.add(y, block.of(residual), out=y, dtype=y.dtype)
        if relu:
            np.maximum(y, 0, out=y)

    correlate(todo, scratch, x, weights, finish, out)
    zero_border(out)


@spec.implements(spec.conv2d_dgrad)
def conv2d_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    op: Conv2d,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_dgrad`: the transposed correlation, phase by phase; db sums block by block."""
    todo = plan("conv2d_dgrad", {"w": w, "out": out, "op": op, "config": config})
    scratch = todo.scratch(workspace)
    weights = transposed_weights(w, todo.phases, op.groups, scratch.shared)
    sums = np.zeros((len(todo.chunks), out.shape[3]), todo.dtype)

    def finish(chunk: int, phase: Phase, block: Block, dx: Array) -> None:
        if mask is not None:
            select(dx, ~(block.of(phase.of(mask)) <= 0), out=dx)  # NaN passes
        if db is not None:
            pixels = dx.reshape(-1, dx.shape[3])
            np.matmul(np.ones(len(pixels), dx.dtype), pixels, out=sums[chunk])

    if todo.folded:
        correlate_folded(todo, scratch, dy, weights, finish, out, op.padding)
    else:
        correlate(todo, scratch, dy, weights, finish, out)
    zero_border(out)
    if db is not None:
        np.add.reduce(sums, axis=0, out=db)


@spec.implements(spec.conv2d_wgrad)
def conv2d_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    op: Conv2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_wgrad`: each chunk of blocks sums on its own; then the chunks, in order."""
    todo = plan("conv2d_wgrad", {"x": x, "out": out, "op": op, "config": config})
    scratch = todo.scratch(workspace)
    groups, filters, window = op.groups, out.shape[0] // op.groups, todo.phases[0].window
    by_tiles = todo.config.algorithm == "winograd"
    shape = (16, *out.shape[::3]) if by_tiles else (groups, filters, out[0].size)
    sums = scratch.shared.reshape(len(todo.chunks), *shape)

    def task(chunk: int, worker: int) -> None:
        image, column, product, extra = scratch.of(worker)
        for i, (_, block) in enumerate(todo.chunks[chunk]):
            term = extra.reshape(shape) if i else sums[chunk]
            if by_tiles:
                winograd.wgrad(x, window, block, dy, term, image, column)
            else:
                patches = gather(x, window, block, groups, todo.edge, image, column)
                part = _in_accumulator(block.of(dy), product).reshape(-1, groups, filters)
                multiply(part.transpose(1, 2, 0), patches, term)
            if i:
                np.add(sums[chunk], term, out=sums[chunk])

    run(todo, task)
    total = np.empty(shape, todo.dtype) if by_tiles else out.reshape(shape)
    _sum_in_order(sums, total)
    if by_tiles:
        winograd.restore_weights(total, out)


@spec.implements(spec.conv2d_relu_pool)
def conv2d_relu_pool(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    code: Out | None,
    *,
    op: Conv2d,
    pool: MaxPool2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_relu_pool`: blocks of even height are pooled before they are stored."""
    todo = plan("conv2d_relu_pool", {"x": x, "w": w, "out": out, "op": op, "config": config})
    scratch = todo.scratch(workspace)
    weights = forward_weights(w, op.groups, scratch.shared)
    bias = _repeated(b, 2 * out.shape[2])

    def finish(chunk: int, phase: Phase, block: Block, y: Array) -> None:
        _add_bias(y, bias)
        pooled = Block(block.n0, block.n1, block.p0 // 2, block.p1 // 2)
        _relu_pool(y, pooled.of(out), None if code is None else pooled.of(code))

    correlate(todo, scratch, x, weights, finish, None)
    zero_border(out)


@spec.implements(spec.conv2d_relu_pool_backward)
def conv2d_relu_pool_backward(
    dy: Array,
    code: Array,
    out: Out,
    *,
    pool: MaxPool2d,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """`spec.conv2d_relu_pool_backward`: each pixel of a window compares the code with its own."""
    n, p, q, k = out.shape
    p, q = p // 2 * 2, q // 2 * 2
    images = rows_per_chunk(p * q * k)
    sums = np.zeros((-(-n // images), k), spec.accumulator(spec.dtype_name(out)))

    def task(n0: int, n1: int) -> None:
        dx, gradient, codes = out[n0:n1], dy[n0:n1], code[n0:n1]
        dx[:, p:] = 0
        dx[:, :, q:] = 0
        for i in range(4):
            select(gradient, codes == i, out=dx[:, i // 2 : p : 2, i % 2 : q : 2])
        if db is not None:
            alive = gradient.astype(sums.dtype)
            select(alive, codes != spec.DEAD, out=alive)
            sums[n0 // images] = column_sums(alive.reshape(-1, k))

    for_chunks(n, images, task)
    zero_border(out)
    if db is not None:
        np.add.reduce(sums, axis=0, out=db)


def _repeated(b: Array | None, columns: int) -> Array | None:
    """The bias for all columns of a row: one long addition is faster than many short ones."""
    return None if b is None else np.tile(b, columns)


def _add_bias(y: Array, bias: Array | None) -> None:
    if bias is not None:
        rows = y.reshape(-1, bias.size)
        np.add(rows, bias, out=rows)


def _sum_in_order(parts: Array, out: Array) -> None:
    """out = parts[0] + parts[1] + ..., slice by slice on all threads; zero without parts."""
    parts, out = parts.reshape(len(parts), out.size), out.reshape(-1)

    def task(i: int, worker: int) -> None:
        piece = slice(i * SUMMED, (i + 1) * SUMMED)
        np.add.reduce(parts[:, piece], axis=0, out=out[piece])

    parallel(-(-out.size // SUMMED), task)


def _in_accumulator(part: Array, memory: Array) -> Array:
    """A block [images, rows, columns, channels] as it is, or copied into `memory` in its type."""
    if part.dtype == memory.dtype and part.flags.c_contiguous:
        return part
    copied = memory[: part.size].reshape(part.shape)
    np.copyto(copied, part)
    return copied


def _relu_pool(y: Array, out: Array, code: Array | None) -> None:
    """out = max(0, largest of each 2x2 window of y); code = where it is, or DEAD below zero."""
    left = y[:, :, 0::2]
    row = np.maximum(left, y[:, :, 1::2])  # NaN is the largest
    upper, lower = row[:, 0::2], row[:, 1::2]
    best = np.maximum(upper, lower)
    np.maximum(best, 0, out=out, casting="unsafe")
    if code is None:
        return
    right, below = row != left, best != upper  # the first largest is not on the left, not above
    if np.isnan(np.max(best, initial=0)):  # a first NaN stays, though it differs from itself
        right &= left == left
        below &= upper == upper
    right, below = right.view(np.int8), below.view(np.int8)
    dead = (best <= 0).view(np.int8)
    first = right[:, 0::2] + below * (right[:, 1::2] - right[:, 0::2] + np.int8(2))
    np.bitwise_or(first & (dead - np.int8(1)), dead * np.int8(spec.DEAD), out=code)
