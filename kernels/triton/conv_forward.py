"""Forward convolution as an implicit matrix product, alone or with ReLU and 2x2 max pooling.

The product is  out [pixels, K] = patches [pixels, R*S*C] @ w [R*S*C, K], but no patch matrix is
ever stored: each step of the sum gathers its block of patches straight from x, at addresses that
follow from the numbers of the pixel and of the tap ("implicit GEMM", as in CUTLASS's documentation
of implicit_gemm_convolution). A program forms one tile of out:

    for each tap (r, s) and block of channels:            (channels innermost: cache lines stay)
        patches [BLOCK_PIXELS, BLOCK_DEPTH]   from x, zero (or the nearest pixel) outside
        weights [BLOCK_DEPTH, BLOCK_FILTERS]  from w
        sums   += patches @ weights           float32, on tensor cores

Images with few channels (a first layer has three) would leave most of BLOCK_DEPTH empty: there
the depth runs over (r, s, c) as one number and a block spans several taps (`FLAT`); how their
patches are gathered stands in `conv_stem.py`.

For the fused pool the pixels are numbered window by window, four in a row of numbers, so that a
window never falls into two tiles, whatever P and Q are: the tile is split four ways in registers.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.contract import dtype_name
from ..spec.grid import grid
from .border import placed
from .conv_gather import MOST_BITS, load_pixels, taps_inside
from .conv_split import finish
from .conv_stem import few_channel_patches, has_few_channels
from .gpu import shortens_ieee
from .launch import cdiv, dot, large, launch, narrow, wide
from .tiles import Tile


@triton.jit
def tile_of_program(program, row_tiles, column_tiles, GROUP_ROWS: tl.constexpr):
    """(row, column) of a tile; GROUP_ROWS rows before the next column, to share it in the cache."""
    per_group = GROUP_ROWS * column_tiles
    first = program // per_group * GROUP_ROWS
    rows = tl.minimum(row_tiles - first, GROUP_ROWS)
    return first + program % per_group % rows, program % per_group // rows


@triton.jit
def _sums(
    x,  # [N, H, W, C], `pitch` elements from pixel to pixel; here: the first channel of the group
    w,  # [K/groups, R*S*C/groups], the group's filters
    n, p, q,  # [BLOCK_PIXELS]
    pixel_ok,  # [BLOCK_PIXELS]
    k,  # [1, BLOCK_FILTERS], in the group
    H, W, pitch,
    split, splits,  # which share of the steps, of how many
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,  # C and K of a group
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """The tile's sums [BLOCK_PIXELS, BLOCK_FILTERS] in float32."""
    DEPTH: tl.constexpr = R * S * C
    CHUNKS: tl.constexpr = (C + BLOCK_DEPTH - 1) // BLOCK_DEPTH
    BITS: tl.constexpr = not EDGE and R * S <= MOST_BITS
    h0 = p * STRIDE_H - TOP  # [BLOCK_PIXELS]
    w0 = q * STRIDE_W - LEFT
    d = tl.arange(0, BLOCK_DEPTH)
    first_weight = k * DEPTH + d[:, None]  # [BLOCK_DEPTH, BLOCK_FILTERS]
    # without a mask where no tile hangs over the last filter
    filter_ok = k < K if K % BLOCK_FILTERS != 0 else tl.full((1, BLOCK_FILTERS), True, tl.int1)
    total = tl.zeros((BLOCK_PIXELS, BLOCK_FILTERS), tl.float32)
    if FLAT:
        for first in tl.static_range(0, DEPTH, BLOCK_DEPTH):
            if first // BLOCK_DEPTH % splits == split:
                patches = few_channel_patches(
                    x, n, h0, w0, pixel_ok, H, W, pitch, first, BLOCK_DEPTH,
                    C, R, S, DILATION_H, DILATION_W, EDGE,
                )  # fmt: skip
                ok = filter_ok & (first + d < DEPTH)[:, None]
                weights = tl.load(w + first + first_weight, mask=ok, other=0.0)
                total = dot(patches, weights, total, PRECISION)
    else:
        n = n[:, None]
        h0 = h0[:, None]
        w0 = w0[:, None]
        pixel_ok = pixel_ok[:, None]
        if BITS:
            inside = taps_inside(h0, w0, pixel_ok, H, W, R, S, DILATION_H, DILATION_W)
        # these offsets stay: a step adds one number to them, that of its tap and channels
        first_patch = ((n * H + h0) * W + w0) * pitch + d[None, :]  # [BLOCK_PIXELS, BLOCK_DEPTH]
        share = tl.cdiv(R * S * CHUNKS, splits)
        for step in range(split * share, tl.minimum((split + 1) * share, R * S * CHUNKS)):
            tap = step // CHUNKS
            channel = step % CHUNKS * BLOCK_DEPTH
            r = tap // S * DILATION_H
            s = tap % S * DILATION_W
            # the bits are those of pixels that are ok
            ok = (inside & (1 << tap)) != 0 if BITS else pixel_ok
            weight_ok = filter_ok
            if C % BLOCK_DEPTH != 0:
                depth_ok = channel + d < C
                ok = ok & depth_ok[None, :]
                weight_ok = weight_ok & depth_ok[:, None]
            if BITS:
                shift = (r * W + s) * pitch + channel
                patches = tl.load(x + shift + first_patch, mask=ok, other=0.0)
            else:
                c = channel + d[None, :]
                patches = load_pixels(x, n, h0 + r, w0 + s, c, ok, H, W, pitch, EDGE)
            weights = tl.load(w + (tap * C + channel) + first_weight, mask=weight_ok, other=0.0)
            total = dot(patches, weights, total, PRECISION)
    return total


@triton.jit
def _conv2d_kernel(
    x,  # [N, H, W, C]
    w,  # [K, R, S, C/groups]
    b,  # [K] float32 or None
    residual,  # [N, P, Q, K] or None
    parts,  # [splits, N, P, Q, K] float32 or None: written in place of out
    out,  # [N, P, Q, K]
    pixels, H, W, P, Q, splits,
    x_pitch, residual_lines, residual_line, residual_pitch, out_lines, out_line, out_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, GROUPS: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    RELU: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_PIXELS, BLOCK_FILTERS] of out; C and K are those of a group."""
    row_tiles = tl.cdiv(pixels, BLOCK_PIXELS)
    column_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    group = tl.program_id(0) // (row_tiles * column_tiles) % GROUPS
    split = tl.program_id(0) // (row_tiles * column_tiles) // GROUPS
    program = tl.program_id(0) % (row_tiles * column_tiles)
    row, column = tile_of_program(program, row_tiles, column_tiles, GROUP_ROWS)
    k = (column * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[None, :]  # in the group
    if LONG:
        row = row.to(tl.int64)
        k = k.to(tl.int64)
        x_pitch = tl.cast(x_pitch, tl.int64)
    m = row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    if parts is None:
        split = 0
    total = _sums(
        x + group * C, w + group * K * (R * S * C), m // Q // P, m // Q % P, m % Q, m < pixels, k,
        H, W, x_pitch, split, splits, C, K, R, S,
        STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP, LEFT, EDGE, FLAT, PRECISION,
        BLOCK_PIXELS, BLOCK_FILTERS, BLOCK_DEPTH,
    )  # fmt: skip
    m = m[:, None]
    ok = (m < pixels) & (k < K)
    k += group * K
    if parts is not None:
        tl.store(parts + ((m + split * pixels) * (GROUPS * K) + k), total, mask=ok)
    else:
        if b is not None:
            total += tl.load(b + k, mask=k < GROUPS * K, other=0.0)
        if residual is not None:
            at = placed(m, P, Q, residual_lines, residual_line, BORDER)
            total += wide(tl.load(residual + (at * residual_pitch + k), mask=ok, other=0.0))
        if RELU:
            total = tl.where(total < 0, 0.0, total)  # a NaN is not below 0
        at = placed(m, P, Q, out_lines, out_line, BORDER)
        tl.store(out + (at * out_pitch + k), narrow(total, out.dtype.element_ty), mask=ok)


@triton.jit
def _later_if_larger(best, at, v, INDEX: tl.constexpr):
    """The larger of best and v, and its number; the first of equals, and the first NaN, stays."""
    later = (v > best) | ((v != v) & (best == best))
    return tl.where(later, v, best), tl.where(later, INDEX, at)


@triton.jit
def _conv2d_relu_pool_kernel(
    x,  # [N, H, W, C]
    w,  # [K, R, S, C/groups]
    b,  # [K] float32 or None
    out,  # [N, P/2, Q/2, K]
    code,  # [N, P/2, Q/2, K] int8, contiguous, or None
    windows, H, W, ROWS, COLUMNS,  # rows and columns of windows in an image
    x_pitch, out_lines, out_line, out_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, GROUPS: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    DEAD: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_PIXELS / 4 windows, BLOCK_FILTERS] of out."""
    BLOCK_WINDOWS: tl.constexpr = BLOCK_PIXELS // 4
    row_tiles = tl.cdiv(windows, BLOCK_WINDOWS)
    column_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    group = tl.program_id(0) // (row_tiles * column_tiles)
    program = tl.program_id(0) % (row_tiles * column_tiles)
    row, column = tile_of_program(program, row_tiles, column_tiles, GROUP_ROWS)
    k = (column * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[None, :]  # in the group
    if LONG:
        row = row.to(tl.int64)
        k = k.to(tl.int64)
        x_pitch = tl.cast(x_pitch, tl.int64)
    i = tl.arange(0, BLOCK_PIXELS)
    m = row * BLOCK_WINDOWS + i // 4  # the window of each pixel
    p = m // COLUMNS % ROWS * 2 + i % 4 // 2
    q = m % COLUMNS * 2 + i % 2
    total = _sums(
        x + group * C, w + group * K * (R * S * C), m // COLUMNS // ROWS, p, q, m < windows, k,
        H, W, x_pitch, 0, 1, C, K, R, S,
        STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP, LEFT, EDGE, FLAT, PRECISION,
        BLOCK_PIXELS, BLOCK_FILTERS, BLOCK_DEPTH,
    )  # fmt: skip
    m = (row * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS))[:, None]
    ok = (m < windows) & (k < K)
    k += group * K
    if b is not None:
        total += tl.load(b + k, mask=k < GROUPS * K, other=0.0)
    total = tl.reshape(total, (BLOCK_WINDOWS, 2, 2, BLOCK_FILTERS))
    left, right = tl.split(tl.permute(total, (0, 3, 1, 2)))  # [windows, filters, row]
    v0, v2 = tl.split(left)  # [windows, filters]
    v1, v3 = tl.split(right)
    at = tl.zeros((BLOCK_WINDOWS, BLOCK_FILTERS), tl.int32)
    best, at = _later_if_larger(v0, at, v1, 1)
    best, at = _later_if_larger(best, at, v2, 2)
    best, at = _later_if_larger(best, at, v3, 3)
    at = tl.where(best <= 0, DEAD, at)
    best = tl.where(best <= 0, 0.0, best)
    to = placed(m, ROWS, COLUMNS, out_lines, out_line, BORDER)
    tl.store(out + (to * out_pitch + k), narrow(best, out.dtype.element_ty), mask=ok)
    if code is not None:
        tl.store(code + (m * (GROUPS * K) + k), at.to(tl.int8), mask=ok)


def constants(op: spec.Conv2d, w_shape: tuple[int, ...]) -> dict[str, Any]:
    """The `tl.constexpr` parameters that a geometry fixes, for filters of shape [K, R, S, C]."""
    return {
        **{"C": w_shape[3], "K": w_shape[0] // op.groups, "R": w_shape[1], "S": w_shape[2]},
        **{"GROUPS": op.groups, "STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]},
        **{"DILATION_H": op.dilation[0], "DILATION_W": op.dilation[1]},
        **{"TOP": op.padding[0], "LEFT": op.padding[2], "PRECISION": op.precision},
    }


def _forward_constants(op: spec.Conv2d, w: Any, tile: Tile) -> dict[str, Any]:
    plain = op.precision == "ieee" and dtype_name(w) == "float32"
    flat = has_few_channels(w.shape) and not (plain and shortens_ieee())
    return {
        **constants(op, w.shape),
        **{"EDGE": op.padding_mode == "edge", "FLAT": flat},
        **{"BLOCK_PIXELS": tile.rows, "BLOCK_FILTERS": tile.columns, "BLOCK_DEPTH": tile.depth},
        **{"GROUP_ROWS": tile.group, "warps": tile.warps, "stages": tile.stages},
    }


def forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, op: spec.Conv2d, relu: bool, tile: Tile,
    splits: int, memory: Any,
) -> None:  # fmt: skip
    """Launch `_conv2d_kernel`: a program for each split, group, tile of pixels and of filters.

    `memory` is float32 [splits * out.size], or unused for one split.
    """
    n, p, q, k = out.shape
    pixels = n * p * q
    tiles = cdiv(pixels, tile.rows) * cdiv(k // op.groups, tile.columns)
    seen, beside, here = grid(x), grid(out if residual is None else residual), grid(out)
    parts = memory[: splits * out.size] if splits > 1 else None
    launch(
        _conv2d_kernel,
        splits * op.groups * tiles,
        # zeros around x may as well be those of its border
        *(x, w, b, residual, parts, out, pixels, seen.lines, seen.line, p, q, splits),
        *(seen.pitch, *beside, *here),
        RELU=relu,
        BORDER=(*beside[:2], *here[:2]) != (p, q, p, q),
        LONG=large(x, w, residual, out, parts),
        **_forward_constants(op, w, tile),
    )
    if parts is not None:
        finish(parts, splits, out, b, residual, relu)


def forward_pooled(
    x: Any, w: Any, b: Any, out: Any, code: Any, op: spec.Conv2d, tile: Tile
) -> None:
    """Launch `_conv2d_relu_pool_kernel`: a program for each group, tile of windows and filters."""
    n, rows, columns, k = out.shape
    windows = n * rows * columns
    seen, here = grid(x), grid(out)
    tiles = cdiv(4 * windows, tile.rows) * cdiv(k // op.groups, tile.columns)
    launch(
        _conv2d_relu_pool_kernel,
        op.groups * tiles,
        *(x, w, b, out, code, windows, seen.lines, seen.line, rows, columns),
        *(seen.pitch, *here),
        DEAD=spec.DEAD,
        BORDER=here[:2] != (rows, columns),
        LONG=large(x, w, out),
        **_forward_constants(op, w, tile),
    )
