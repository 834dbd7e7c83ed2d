"""Transpose, pad, broadcast and ordered sums of arrays of up to six axes.

What is read or written in order keeps its order: copies walk along the last axis of out. A
transpose that moves the last axis of x reads tiles along that axis and writes them along the last
one of out; between the two the compiler turns a tile in shared memory. All other axes are indices
that a program takes apart (`_axis`).

Sums: a program adds BLOCK_OUTPUTS x BLOCK_TERMS elements at a time of one split of the terms; the
sums of splits go through the workspace and are added in order. Splits follow from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy
import triton
import triton.language as tl

from .. import spec
from ..spec import Config, Pad
from ..spec.contract import Array, Out
from ..spec.shape import joined, merged
from .launch import add_in_order, cdiv, large, launch, narrow, scratch, usable, wide
from .pixels import PROGRAMS, TILE
from .tiles import power_of_two, row_tile

SIDE = 64  # of a tile that is transposed
LEAST_TERMS = 4  # tiles of a split of a sum
Axes = list[tuple[int, ...]]  # of each axis (extent, step in x, …)


@triton.jit
def _axis(rest, at, extent, step):
    """Take the innermost index from `rest`: what is left of it, and `at` moved along this axis."""
    return rest // extent, at + rest % extent * step


@triton.jit
def _padded_axis(rest, at, inside, extent, step, before, size):
    """The same where x begins at index `before` and has `size` elements."""
    i = rest % extent - before
    return rest // extent, at + i * step, inside & (i >= 0) & (i < size)


@triton.jit
def _copy_kernel(
    x,
    out,  # [rows, columns], contiguous
    rows,
    columns,
    value,  # where x has none
    step,  # in x of the columns: 1, or 0 where x repeats
    before,
    size,
    extent1, step1, before1, size1,  # of the next axis outwards
    extent2, step2, before2, size2,
    extent3, step3, before3, size3,
    extent4, step4, before4, size4,
    extent5, step5, before5, size5,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    LONG: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_COLUMNS)
    first = tl.program_id(0) // blocks * BLOCK_ROWS
    if LONG:
        first = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_ROWS
    m = first + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(0) % blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at, inside = m * 0, m < rows
    rest, at, inside = _padded_axis(m, at, inside, extent1, step1, before1, size1)
    rest, at, inside = _padded_axis(rest, at, inside, extent2, step2, before2, size2)
    rest, at, inside = _padded_axis(rest, at, inside, extent3, step3, before3, size3)
    rest, at, inside = _padded_axis(rest, at, inside, extent4, step4, before4, size4)
    rest, at, inside = _padded_axis(rest, at, inside, extent5, step5, before5, size5)
    i = c - before
    taken = inside[:, None] & ((i >= 0) & (i < size) & (c < columns))[None, :]
    read = wide(tl.load(x + (at[:, None] + (i * step)[None, :]), mask=taken, other=0.0))
    read = narrow(tl.where(taken, read, value), out.dtype.element_ty)
    to = out + (m[:, None] * columns + c[None, :])
    tl.store(to, read, mask=(m < rows)[:, None] & (c < columns)[None, :])


@triton.jit
def _transpose_kernel(
    x,  # […, P, …, Q]
    out,  # […, Q, …, P]
    P,
    Q,
    x_step,  # elements from one p to the next
    out_step,  # from one q to the next
    extent1, x_step1, out_step1,  # of the other axes
    extent2, x_step2, out_step2,
    extent3, x_step3, out_step3,
    extent4, x_step4, out_step4,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    LONG: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(Q, BLOCK_Q)
    tile = tl.program_id(0) // blocks
    q = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q))[None, :]
    rest = tile // tl.cdiv(P, BLOCK_P)
    p = (tile % tl.cdiv(P, BLOCK_P) * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    if LONG:
        rest = rest.to(tl.int64)
        p = p.to(tl.int64)
        q = q.to(tl.int64)
    x_at, out_at = rest * 0, rest * 0
    _, out_at = _axis(rest, out_at, extent1, out_step1)
    rest, x_at = _axis(rest, x_at, extent1, x_step1)
    _, out_at = _axis(rest, out_at, extent2, out_step2)
    rest, x_at = _axis(rest, x_at, extent2, x_step2)
    _, out_at = _axis(rest, out_at, extent3, out_step3)
    rest, x_at = _axis(rest, x_at, extent3, x_step3)
    _, out_at = _axis(rest, out_at, extent4, out_step4)
    rest, x_at = _axis(rest, x_at, extent4, x_step4)
    inside = (p < P) & (q < Q)
    value = tl.load(x + (x_at + p * x_step + q), mask=inside, other=0.0)
    tl.store(out + (out_at + q * out_step + p), value, mask=inside)


@triton.jit
def _reduce_sum_kernel(
    x,
    out,  # [splits, outputs]
    outputs,
    terms,
    of_split,  # terms, a multiple of BLOCK_TERMS
    extent1, step1,  # of the kept axes, the innermost first
    extent2, step2,
    extent3, step3,
    summed1, stride1,  # of the axes that are summed
    summed2, stride2,
    summed3, stride3,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
    LONG: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(outputs, BLOCK_OUTPUTS)
    split = tl.program_id(0) // blocks
    o = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    start = split * of_split
    if LONG:
        o = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
        start = split.to(tl.int64) * of_split
    rest, base = _axis(o, o * 0, extent1, step1)
    rest, base = _axis(rest, base, extent2, step2)
    rest, base = _axis(rest, base, extent3, step3)
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_TERMS), tl.float32)
    for first in range(0, of_split, BLOCK_TERMS):
        t = start + first + tl.arange(0, BLOCK_TERMS)
        left, at = _axis(t, t * 0, summed1, stride1)
        left, at = _axis(left, at, summed2, stride2)
        left, at = _axis(left, at, summed3, stride3)
        inside = (o < outputs)[:, None] & (t < terms)[None, :]
        total += wide(tl.load(x + (base[:, None] + at[None, :]), mask=inside, other=0.0))
    sums = narrow(tl.sum(total, axis=1), out.dtype.element_ty)
    tl.store(out + (split * outputs + o), sums, mask=o < outputs)


def _steps(extents: Any) -> list[int]:
    """Elements from one index to the next, for each axis of a contiguous array."""
    return [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]


def _filled(axes: Axes, count: int, empty: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of `count` axes in one row, `empty` where there are none."""
    filled = [*axes, *[empty] * (count - len(axes))]
    return tuple(number for axis in filled for number in axis)


def _copy(x: Array, out: Array, axes: Axes, value: float) -> None:
    """out = x along `axes`: (extent of out, step in x, index of out where x begins, its size)."""
    if out.size == 0:
        return
    columns, *last = axes[-1]
    rows = out.size // columns
    high, broad = row_tile(columns, TILE)
    launch(
        _copy_kernel,
        cdiv(rows, high) * cdiv(columns, broad),
        *(x, out, rows, columns, value, *last),
        *_filled(axes[-2::-1], 5, (1, 0, 0, 1)),
        BLOCK_ROWS=high,
        BLOCK_COLUMNS=broad,
        LONG=large(x, out),
    )


@spec.implements(spec.transpose)
def transpose(x: Array, out: Out, *, axes: tuple[int, ...]) -> None:
    """Tiles of the last axis of x and the last of out; rows where that is the same one."""
    usable("transpose", x=x, out=out)
    extents, order = joined(x.shape, axes)
    steps = _steps(extents)
    if order[-1] == len(extents) - 1:
        _copy(x, out, [(extents[axis], steps[axis], 0, extents[axis]) for axis in order], 0.0)
        return
    of_out = _steps([extents[axis] for axis in order])
    out_steps = {axis: of_out[place] for place, axis in enumerate(order)}
    first, last = order[-1], len(extents) - 1
    others = [(extents[a], steps[a], out_steps[a]) for a in order if a not in (first, last)]
    p, q = extents[first], extents[last]
    high, broad = power_of_two(p, 1, SIDE), power_of_two(q, 1, SIDE)
    high, broad = power_of_two(p, 1, TILE // broad), power_of_two(q, 1, TILE // high)
    launch(
        _transpose_kernel,
        cdiv(p, high) * cdiv(q, broad) * math.prod(extent for extent, *_ in others),
        *(x, out, p, q, steps[first], out_steps[last]),
        *_filled(others[::-1], 4, (1, 0, 0)),
        BLOCK_P=high,
        BLOCK_Q=broad,
        LONG=large(x),
    )


@spec.implements(spec.pad)
def pad(x: Array, out: Out, *, op: Pad) -> None:
    """Each element of out asks whether x has it."""
    usable("pad", x=x, out=out)
    axes: Axes = []
    for n, m, step, before in zip(x.shape, out.shape, _steps(x.shape), op.before, strict=True):
        if axes and before == 0 and n == m:  # as the rows of the axis in front of it
            extent, _, begin, size = axes[-1]
            axes[-1] = extent * n, step, begin * n, size * n
        else:
            axes.append((m, step, before, n))
    with numpy.errstate(over="ignore"):
        value = float(x.dtype.type(op.value))
    _copy(x, out, axes, value)


@spec.implements(spec.broadcast)
def broadcast(x: Array, out: Out) -> None:
    """Axes that x repeats have step 0 in x."""
    usable("broadcast", x=x, out=out)
    kinds, _ = merged(x.shape, out.shape)
    kinds = kinds or [(1, True)]
    steps = _steps([n if kept else 1 for n, kept in kinds])
    axes: Axes = [
        (n, step if kept else 0, 0, n) for (n, kept), step in zip(kinds, steps, strict=True)
    ]
    _copy(x, out, axes, 0.0)


def choose(function: str, arguments: Mapping[str, Any]) -> Config:
    """For reduce_sum the splits of its terms and the workspace of their sums."""
    if function != "reduce_sum":
        return Config("triton", reason="one kernel")
    small = tuple(arguments["out"].shape)
    kinds, _ = merged(small, tuple(arguments["x"].shape))
    outputs = math.prod(small)
    terms = math.prod(n for n, kept in kinds if not kept)
    last = kinds[-1] if kinds else (1, True)
    if last[1]:  # neighbours in x belong to different sums
        across = power_of_two(last[0], 1, SIDE)
        along = power_of_two(terms, 1, TILE // across)
    else:
        along = power_of_two(terms, 1, TILE // 2)
        across = power_of_two(outputs, 1, TILE // along)
    splits = min(PROGRAMS // max(cdiv(outputs, across), 1), cdiv(terms, LEAST_TERMS * along))
    splits = max(splits, 1)
    of_split = max(cdiv(cdiv(terms, splits), along), 1) * along
    splits = max(cdiv(terms, of_split), 1)
    tile = ("splits", splits), ("of_split", of_split), ("outputs", across), ("terms", along)
    need = 4 * splits * outputs if splits > 1 else 0
    return Config("splits", tile, need, f"{splits} splits of {of_split} terms")


@spec.implements(spec.reduce_sum)
def reduce_sum(
    x: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """Sums of splits of the terms, added in order."""
    usable("reduce_sum", x=x, out=out, workspace=workspace)
    if out.size == 0:
        return
    config = config or choose("reduce_sum", {"x": x, "out": out})
    kinds, _ = merged(out.shape, x.shape)
    steps = _steps([n for n, _ in kinds])
    both = list(zip(kinds, steps, strict=True))[::-1]
    kept = [(n, step) for (n, is_kept), step in both if is_kept]
    summed = [(n, step) for (n, is_kept), step in both if not is_kept]
    splits, across = config["splits"], config["outputs"]
    memory = scratch(workspace, config.workspace_bytes // 4)
    sums = out if splits == 1 else memory[: splits * out.size]
    launch(
        _reduce_sum_kernel,
        splits * cdiv(out.size, across),
        *(x, sums, out.size, math.prod(n for n, _ in summed), config["of_split"]),
        *(*_filled(kept, 3, (1, 0)), *_filled(summed, 3, (1, 0))),
        BLOCK_OUTPUTS=across,
        BLOCK_TERMS=config["terms"],
        LONG=large(x),
    )
    if splits > 1:
        add_in_order(sums, out, splits)
