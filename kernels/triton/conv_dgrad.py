"""Gradient with respect to x: a gather of dy, phase by phase of the stride, in one launch.

    dx[n,h,v,c] = sum over r,s,k of dy[n,p,q,k] * w[k,r,s,c]
    with p = (h + top - r * dilation_h) / stride_h, where that is a whole number; q likewise

Rows of equal (h + top) mod stride form a phase, and so do columns; pixels of one phase meet the
same taps, so each phase is a dense product with no wasted multiplication (the sub-problems of
strided dgrad in CUTLASS's documentation of implicit_gemm_convolution). A phase that no tap meets
(a 1x1 filter with stride 2 has three) is a sum of no steps: zeros. For stride 1 there is one phase,
and the kernel is the forward kernel with its filters flipped and transposed by their addresses.

The ReLU mask and the bias gradient of the layer below are the epilogue's: each tile leaves its
column sums in the workspace, and they are added in the order of the tiles. A small batch has its
own sums split, and then they are those of the second pass (`conv_split.py`).

Edge padding repeats border pixels, so that their gradient sums many pixels of the padded image:
that image's gradient goes to the workspace in float32, and a second kernel adds the padding's share
to the border (`conv_fold.py`).
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from math import gcd, prod
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.grid import grid
from . import conv_depthwise
from .conv_fold import Shape, fold, fold_block
from .conv_forward import constants, tile_of_program
from .conv_gather import MOST_BITS, load_pixels, taps_inside, within
from .conv_split import finish, finish_block
from .conv_stem import FEW_CHANNELS
from .launch import add_in_order, cdiv, dot, large, launch, narrow, wide
from .tiles import Tile


@triton.jit
def _phase(a, PAD: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, COMMON: tl.constexpr,
           TAPS: tl.constexpr, extent):  # fmt: skip
    """(first pixel, number of pixels, first tap, number of taps) of phase `a` of one axis.

    COMMON is the greatest common divisor of STRIDE and DILATION: every STRIDE / COMMON-th tap
    falls into the same phase.
    """
    EVERY: tl.constexpr = STRIDE // COMMON
    first = (a + STRIDE * PAD - PAD) % STRIDE
    count = tl.maximum((extent - first + STRIDE - 1) // STRIDE, 0)
    first_tap = a * 0
    found = a * 0
    for r in tl.static_range(EVERY):
        meets = (r * DILATION) % STRIDE == a
        first_tap = tl.where(meets, r, first_tap)
        found = tl.where(meets, 1, found)
    taps = found * tl.maximum((TAPS - first_tap + EVERY - 1) // EVERY, 0)
    return first, count, first_tap, taps


@triton.jit
def _conv2d_dgrad_kernel(
    dy,  # [N, P, Q, K]
    w,  # [K, R, S, C/groups]
    out,  # [N, H, W, C]
    mask,  # [N, H, W, C] or None
    sums,  # [row tiles of all phases, C] float32 or None: the shares of db
    parts,  # [splits, N, H, W, C] float32 or None: written in place of out and sums
    N, H, W, P, Q, row_tiles, splits,  # row tiles of the largest phase
    dy_pitch, mask_lines, mask_line, mask_pitch, out_lines, out_line, out_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, GROUPS: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    COMMON_H: tl.constexpr, COMMON_W: tl.constexpr,  # greatest common divisors with the stride
    TOP: tl.constexpr, LEFT: tl.constexpr,
    FLAT: tl.constexpr, PRECISION: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_PIXELS, BLOCK_CHANNELS] of one phase of out; C and K are those of a group."""
    column_tiles: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    CHUNKS: tl.constexpr = (K + BLOCK_DEPTH - 1) // BLOCK_DEPTH
    tiles = row_tiles * column_tiles
    phase = tl.program_id(0) // tiles % (STRIDE_H * STRIDE_W)
    group = tl.program_id(0) // tiles // (STRIDE_H * STRIDE_W) % GROUPS
    split = tl.program_id(0) // tiles // (STRIDE_H * STRIDE_W) // GROUPS
    row, column = tile_of_program(tl.program_id(0) % tiles, row_tiles, column_tiles, GROUP_ROWS)
    h0, rows, r0, r_taps = _phase(phase // STRIDE_W, TOP, STRIDE_H, DILATION_H, COMMON_H, R, H)
    w0, columns, s0, s_taps = _phase(phase % STRIDE_W, LEFT, STRIDE_W, DILATION_W, COMMON_W, S, W)
    pixels = N * rows * columns
    depth = r_taps * s_taps * K
    steps = tl.cdiv(depth, BLOCK_DEPTH) if FLAT else r_taps * s_taps * CHUNKS
    steps = tl.where(row * BLOCK_PIXELS < pixels, steps, 0)
    columns = tl.maximum(columns, 1)
    rows = tl.maximum(rows, 1)
    s_taps = tl.maximum(s_taps, 1)
    c = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]  # in the group
    if LONG:
        row = row.to(tl.int64)
        c = c.to(tl.int64)
        dy_pitch = tl.cast(dy_pitch, tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    n = m // columns // rows
    h = m // columns % rows * STRIDE_H + h0
    v = m % columns * STRIDE_W + w0
    p0 = (h + TOP - r0 * DILATION_H) // STRIDE_H  # exact: that is what a phase is
    q0 = (v + LEFT - s0 * DILATION_W) // STRIDE_W
    d = tl.arange(0, BLOCK_DEPTH)
    pixel_ok = m < pixels
    # without a mask where no tile hangs over the last channel
    channel_ok = c < C if C % BLOCK_CHANNELS != 0 else tl.full((1, BLOCK_CHANNELS), True, tl.int1)
    dy += group * K
    w += group * K * (R * S * C)
    STEP_H: tl.constexpr = DILATION_H // COMMON_H  # pixels of dy from a tap to the next
    STEP_W: tl.constexpr = DILATION_W // COMMON_W
    TAPS_H: tl.constexpr = (R + STRIDE_H // COMMON_H - 1) // (STRIDE_H // COMMON_H)  # at most
    TAPS_W: tl.constexpr = (S + STRIDE_W // COMMON_W - 1) // (STRIDE_W // COMMON_W)
    BITS: tl.constexpr = TAPS_H * TAPS_W <= MOST_BITS and not FLAT
    if BITS:
        inside = taps_inside(p0, q0, pixel_ok, P, Q, TAPS_H, TAPS_W, -STEP_H, -STEP_W)
    # these offsets stay: a step adds one number to them, that of its tap and filters
    first_part = ((n * P + p0) * Q + q0) * dy_pitch + d[None, :]  # [BLOCK_PIXELS, BLOCK_DEPTH]
    first_weight = d[:, None] * (R * S * C) + c  # [BLOCK_DEPTH, BLOCK_CHANNELS]
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    first_step = steps * 0
    if parts is not None:
        share = tl.cdiv(steps, splits)
        first_step = split * share
        steps = tl.minimum(first_step + share, steps)
    for step in range(first_step, steps):
        if FLAT:
            t = step * BLOCK_DEPTH + d  # [BLOCK_DEPTH], (tap, k) as one number
            tap = t // K
            k = t % K
            k_ok = t < depth
        else:
            tap = step // CHUNKS
            k = step % CHUNKS * BLOCK_DEPTH
            k_ok = k + d < K
        i = tap // s_taps
        j = tap % s_taps
        r = r0 + i * (STRIDE_H // COMMON_H)
        s = s0 + j * (STRIDE_W // COMMON_W)
        at = k * (R * S * C) + (r * S + s) * C
        # the bits are those of pixels that are ok
        ok = (inside & (1 << (i * TAPS_W + j))) != 0 if BITS else pixel_ok
        weight_ok = channel_ok
        if FLAT or K % BLOCK_DEPTH != 0:
            ok = ok & k_ok[None, :]
            weight_ok = weight_ok & k_ok[:, None]
        if FLAT:
            p = p0 - (i * STEP_H)[None, :]
            q = q0 - (j * STEP_W)[None, :]
            part = load_pixels(dy, n, p, q, k[None, :], ok, P, Q, dy_pitch, False)
            weights = tl.load(w + (at[:, None] + c), mask=weight_ok, other=0.0)
        else:
            if not BITS:
                ok = ok & within(p0 - i * STEP_H, P) & within(q0 - j * STEP_W, Q)
            shift = (i * STEP_H * Q + j * STEP_W) * dy_pitch
            part = tl.load(dy + (k - shift) + first_part, mask=ok, other=0.0)
            weights = tl.load(w + at + first_weight, mask=weight_ok, other=0.0)
        total = dot(part, weights, total, PRECISION)
    ok = pixel_ok & channel_ok
    c += group * C
    pixel = (n * H + h) * W + v
    if parts is not None:
        images = N * H if not LONG else tl.cast(N, tl.int64) * H
        tl.store(parts + ((pixel + split * images * W) * (GROUPS * C) + c), total, mask=ok)
    else:
        if mask is not None:
            at = (n * mask_lines + h) * mask_line + v if BORDER else pixel
            gate = tl.load(mask + (at * mask_pitch + c), mask=ok, other=0.0)
            total = tl.where(wide(gate) <= 0, 0.0, total)  # a NaN is not below 0
        if sums is not None:
            place = phase * row_tiles + row
            shares = tl.sum(tl.where(ok, total, 0.0), 0)[None, :]
            tl.store(sums + (place * (GROUPS * C) + c), shares, mask=channel_ok)
        at = (n * out_lines + h) * out_line + v if BORDER else pixel
        tl.store(out + (at * out_pitch + c), narrow(total, out.dtype.element_ty), mask=ok)


def phase_tiles(shape: Shape, stride: tuple[int, int], rows: int) -> int:
    """Tiles of `rows` pixels in the largest phase of images of this shape [N, H, W, C]."""
    return cdiv(shape[0] * cdiv(shape[1], stride[0]) * cdiv(shape[2], stride[1]), rows)


def scratch_floats(
    shape: Shape, op: spec.Conv2d, tile: Tile, db: bool, splits: int
) -> tuple[int, int, int]:
    """float32 of workspace for dx of this shape: (padded gradient, shares of db, split sums)."""
    pixels, c = shape[0] * shape[1] * shape[2], shape[3]
    padded = 0
    if op.padding_mode == "edge" and any(op.padding):
        padded = prod(op.padded_shape(shape))
        tiles = cdiv(pixels, fold_block(shape)[0])
    elif splits > 1:
        tiles = cdiv(pixels, finish_block(c)[0])
    else:
        tiles = op.stride[0] * op.stride[1] * phase_tiles(shape, op.stride, tile.rows)
    parts = splits * (padded or pixels * c) if splits > 1 else 0
    return padded, tiles * c if db else 0, parts


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, db: Any, op: spec.Conv2d, tile: Tile, splits: int,
    workspace: Any, depthwise: bool = False,
) -> None:  # fmt: skip
    """dx, its mask and db; `workspace` is float32 of `scratch_floats`."""
    seen = conv_depthwise.one_phase(op) if depthwise else op
    padded, shares, count = scratch_floats(out.shape, seen, tile, db is not None, splits)
    sums = workspace[padded : padded + shares] if shares else None
    parts = workspace[padded + shares : padded + shares + count] if count else None
    into = workspace[:padded].reshape(op.padded_shape(out.shape)) if padded else out
    corner = (0, 0) if padded else (op.padding[0], op.padding[2])
    fused = (mask, sums) if not padded and parts is None else (None, None)
    if depthwise:
        conv_depthwise.dgrad(dy, w, into, *fused, op, corner, tile)
    else:
        _product(dy, w, into, *fused, parts, op, corner, tile, splits)
    if parts is not None:
        finish(parts, splits, into, **({} if padded else {"mask": mask, "sums": sums}))
    if padded:
        fold(into, out, mask, sums, op)
    if db is not None:
        if sums is None:
            db[...] = 0  # no pixels
        else:
            add_in_order(sums, db, shares // out.shape[3])


def _product(
    dy: Any, w: Any, out: Any, mask: Any, sums: Any, parts: Any, op: spec.Conv2d, corner: Any,
    tile: Tile, splits: int,
) -> None:  # fmt: skip
    n, height, width, c = out.shape
    row_tiles = phase_tiles(out.shape, op.stride, tile.rows)
    seen, beside, here = grid(dy), grid(out if mask is None else mask), grid(out)
    programs = row_tiles * cdiv(c // op.groups, tile.columns)
    stated = {**constants(op, w.shape), "TOP": corner[0], "LEFT": corner[1]}
    launch(
        _conv2d_dgrad_kernel,
        splits * op.groups * op.stride[0] * op.stride[1] * programs,
        # zeros around dy may as well be those of its border
        *(dy, w, out, mask, sums, parts, n, height, width, seen.lines, seen.line),
        *(row_tiles, splits),
        *(seen.pitch, *beside, *here),
        **stated,
        COMMON_H=gcd(op.stride[0], op.dilation[0]),
        COMMON_W=gcd(op.stride[1], op.dilation[1]),
        FLAT=w.shape[0] // op.groups < FEW_CHANNELS,
        BORDER=(*beside[:2], *here[:2]) != (height, width, height, width),
        LONG=large(dy, w, mask, out, parts),
        **{"BLOCK_PIXELS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_DEPTH": tile.depth},
        **{"GROUP_ROWS": tile.group, "warps": tile.warps, "stages": tile.stages},
    )
