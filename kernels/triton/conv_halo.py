"""Convolution without a gather: the image as one long matrix, taps as shifts of its rows.

For stride 1 and an output of the input's size. An image batch with a border of zeros, one run of
columns to the right of each row and one of rows below each image, is a matrix x [positions, C] in
which the neighbour at tap (r, s) of every pixel is the same number of rows away:

    out[g, k] = sum over r,s,c of x[g + (r - top) * line + (s - left), c] * w[k, r, s, c]

where `line` is the length of a row with its border. A step to the left of the first column lands
in the border of the row above, so one border serves both sides; so do the rows below an image for
the next one, and outside the matrix the copy engine (TMA) reads zeros. Hence no address is computed
per pixel and nothing is masked: each step of the sum is one block of x and one of w, fetched as
they lie. A 1x1 filter needs no border at all. The price are the positions of the border, whose sums
are formed and thrown away: (H + rows) * (W + columns) / (H * W) of the work.

dgrad is the same with the shifts turned round: dx[g, c] = sum of dy[g - shift, k] * w[k, r, s, c].

Outputs may have a border too, or none: positions that are pixels go to their place, and where out
has the grid of x the zeros of its border are written on the way.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.contract import ITEMSIZE, dtype_name
from ..spec.grid import Grid, border, grid, positions, start
from .conv_forward import tile_of_program
from .launch import (
    LARGE,
    add_in_order,
    address,
    cdiv,
    descriptor,
    dot,
    fetches_blocks,
    launch,
    narrow,
    wide,
)
from .tiles import LEAST, Tile

READ = {"conv2d": ("x",), "conv2d_dgrad": ("dy",), "conv2d_wgrad": ("x", "dy")}  # with a border


@triton.jit
def _shifted_sums(
    a,  # [positions, A_CHANNELS] by [BLOCK_POSITIONS, BLOCK_DEPTH]: x, or dy for dgrad
    w,  # [K, R*S*C] by [BLOCK_COLUMNS, BLOCK_DEPTH], or by [BLOCK_DEPTH, BLOCK_COLUMNS] for dgrad
    first, column,  # of the tile
    line,  # positions of a row of pixels and its border
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    DEPTH: tl.constexpr,  # channels that are summed: C, or K for dgrad
    DGRAD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """The tile's sums [BLOCK_POSITIONS, BLOCK_COLUMNS] in float32; BLOCK_DEPTH divides DEPTH."""
    CHUNKS: tl.constexpr = DEPTH // BLOCK_DEPTH
    total = tl.zeros((BLOCK_POSITIONS, BLOCK_COLUMNS), tl.float32)
    tap = 0
    s = 0
    depth = 0
    shift = -TOP * line - LEFT
    for _ in range(R * S * CHUNKS):
        if DGRAD:
            block = a.load([first - shift, depth])
            weights = w.load([depth, tap * C + column])
        else:
            block = a.load([first + shift, depth])
            weights = w.load([column, tap * C + depth]).T
        total = dot(block, weights, total, PRECISION)
        # counted up: dividing the number of the step costs more instructions than all the rest
        depth += BLOCK_DEPTH
        done = depth == DEPTH
        depth = tl.where(done, 0, depth)
        tap = tl.where(done, tap + 1, tap)
        end = s == S - 1
        shift = tl.where(done, tl.where(end, shift + line - (S - 1), shift + 1), shift)
        s = tl.where(done, tl.where(end, 0, s + 1), s)
    return total


@triton.jit
def _pixels(first, positions, H, W, lines, line, BLOCK_POSITIONS: tl.constexpr, LONG: tl.constexpr):
    """(image, row, column, whether it is a pixel) of a tile's positions, each [BLOCK_POSITIONS, 1].

    `lines` is the number of rows of an image with its border.
    """
    if LONG:
        first = first.to(tl.int64)
    g = (first + tl.arange(0, BLOCK_POSITIONS))[:, None]
    h = g // line % lines
    v = g % line
    return g // line // lines, h, v, (g < positions) & (h < H) & (v < W)


@triton.jit
def _conv2d_halo_kernel(
    x,  # [positions, C] by [BLOCK_POSITIONS, BLOCK_DEPTH]
    w,  # [K, R*S*C] by [BLOCK_FILTERS, BLOCK_DEPTH]
    b,  # [K] float32 or None
    residual,  # [N, H, W, K] or None
    out,  # [N, H, W, K]
    positions, H, W, lines, line,
    residual_lines, residual_line, residual_pitch,
    out_lines, out_line, out_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRECISION: tl.constexpr, RELU: tl.constexpr,
    RESIDUAL_BLOCKS: tl.constexpr, OUT_BLOCKS: tl.constexpr,  # they have the grid of x, and are
    # matrices [positions, K] by [BLOCK_POSITIONS, BLOCK_FILTERS]
    LONG: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_POSITIONS, BLOCK_FILTERS] of out."""
    row_tiles = tl.cdiv(positions, BLOCK_POSITIONS)
    column_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    row, column = tile_of_program(tl.program_id(0), row_tiles, column_tiles, GROUP_ROWS)
    first = row * BLOCK_POSITIONS
    column *= BLOCK_FILTERS
    total = _shifted_sums(
        x, w, first, column, line, C, R, S, TOP, LEFT, C, False, PRECISION,
        BLOCK_POSITIONS, BLOCK_FILTERS, BLOCK_DEPTH,
    )  # fmt: skip
    n, h, v, is_pixel = _pixels(first, positions, H, W, lines, line, BLOCK_POSITIONS, LONG)
    k = (column + tl.arange(0, BLOCK_FILTERS))[None, :]
    ok = is_pixel & (k < K)
    if b is not None:
        total += tl.load(b + k, mask=k < K, other=0.0)
    if RESIDUAL_BLOCKS:
        total += wide(residual.load([first, column]))
    elif residual is not None:
        at = ((n * residual_lines + h) * residual_line + v) * residual_pitch + k
        total += wide(tl.load(residual + at, mask=ok, other=0.0))
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # a NaN is not below 0
    if OUT_BLOCKS:
        total = tl.where(is_pixel, total, 0.0)
        out.store([first, column], narrow(total, x.dtype))
    else:
        at = ((n * out_lines + h) * out_line + v) * out_pitch + k
        tl.store(out + at, narrow(total, x.dtype), mask=ok)


@triton.jit
def _conv2d_dgrad_halo_kernel(
    dy,  # [positions, K] by [BLOCK_POSITIONS, BLOCK_DEPTH]
    w,  # [K, R*S*C] by [BLOCK_DEPTH, BLOCK_CHANNELS]
    mask,  # [N, H, W, C] or None
    out,  # [N, H, W, C]
    sums,  # [row tiles, C] float32 or None: the shares of db
    positions, H, W, lines, line,
    mask_lines, mask_line, mask_pitch,
    out_lines, out_line, out_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRECISION: tl.constexpr,
    MASK_BLOCKS: tl.constexpr, OUT_BLOCKS: tl.constexpr,  # they have the grid of dy, and are
    # matrices [positions, C] by [BLOCK_POSITIONS, BLOCK_CHANNELS]
    LONG: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_POSITIONS, BLOCK_CHANNELS] of out."""
    row_tiles = tl.cdiv(positions, BLOCK_POSITIONS)
    column_tiles: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    row, column = tile_of_program(tl.program_id(0), row_tiles, column_tiles, GROUP_ROWS)
    first = row * BLOCK_POSITIONS
    column *= BLOCK_CHANNELS
    total = _shifted_sums(
        dy, w, first, column, line, C, R, S, TOP, LEFT, K, True, PRECISION,
        BLOCK_POSITIONS, BLOCK_CHANNELS, BLOCK_DEPTH,
    )  # fmt: skip
    n, h, v, is_pixel = _pixels(first, positions, H, W, lines, line, BLOCK_POSITIONS, LONG)
    c = (column + tl.arange(0, BLOCK_CHANNELS))[None, :]
    ok = is_pixel & (c < C)
    total = tl.where(is_pixel, total, 0.0)
    if MASK_BLOCKS:
        total = tl.where(wide(mask.load([first, column])) <= 0, 0.0, total)  # a NaN is not below 0
    elif mask is not None:
        at = ((n * mask_lines + h) * mask_line + v) * mask_pitch + c
        gate = tl.load(mask + at, mask=ok, other=0.0)
        total = tl.where(wide(gate) <= 0, 0.0, total)
    if sums is not None:
        tl.store(sums + (row * C + c), tl.sum(total, 0)[None, :], mask=c < C)
    if OUT_BLOCKS:
        out.store([first, column], narrow(total, dy.dtype))
    else:
        at = ((n * out_lines + h) * out_line + v) * out_pitch + c
        tl.store(out + at, narrow(total, dy.dtype), mask=ok)


def declined(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a convolution has to be gathered, from shapes, types and borders; None if it has not."""
    op = arguments["op"]
    k, r, s, c = arguments["out" if function == "conv2d_wgrad" else "w"].shape
    sources = [arguments[name] for name in READ[function]]
    dtype = dtype_name(sources[0])
    top, bottom, left, right = op.padding
    if not fetches_blocks():
        return "no copy engine (needs sm_90)"
    if (op.stride, op.dilation, op.groups) != ((1, 1), (1, 1), 1):
        return "not of stride 1, dilation 1 and one group"
    if (top + bottom, left + right) != (r - 1, s - 1):
        return "out is not of the size of x"
    if op.padding_mode != "zeros" and any(op.padding):
        return f"padding is {op.padding_mode!r}"
    if (dtype, op.precision) == ("float32", "ieee"):
        return "plain cores, which form IEEE products of float32, gain nothing by it"
    summed = {"conv2d": (c,), "conv2d_dgrad": (k,), "conv2d_wgrad": ()}[function]
    if any(count % LEAST for count in summed):
        return f"{summed[0]} channels are no multiple of {LEAST}"
    pitches = (grid(a).pitch * ITEMSIZE[dtype] for a in sources)
    if any(n % 16 for n in (c * ITEMSIZE[dtype], *pitches, *map(start, sources))):
        return f"pixels or taps do not start at multiples of 16 bytes ({c} channels of {dtype})"
    n = sources[0].shape[0]
    needed = (max(top, bottom) if n > 1 else 0, max(left, right))
    borders = [border(a) for a in sources]
    if any(b[0] < needed[0] or b[1] < needed[1] for b in borders):
        told = ", ".join(f"{n} {b}" for n, b in zip(READ[function], borders, strict=True))
        return f"needs a border of {needed}, has {told}"
    if any(b != borders[0] for b in borders):
        return "x and dy have different borders"
    return None


@dataclass(frozen=True)
class _Place:
    """How a kernel gets at an array beside its source: in blocks of one grid, or pixel by pixel."""

    array: Any  # as an argument of the launch
    blocks: bool
    grid: Grid
    end: int  # an offset that no element passes


def _place(array: Any, source: Any, tile: Tile) -> _Place:
    if array is None:
        return _Place(None, False, Grid(0, 0, 0), 0)
    here, size = grid(array), array.dtype.itemsize
    same = border(array) == border(source)
    blocks = same and here.pitch * size % 16 == 0 and address(array) % 16 == 0
    end = positions(array) * here.pitch
    if blocks:
        matrix, block = (positions(array), array.shape[3]), (tile.rows, tile.columns)
        array = descriptor(array, matrix, here.pitch, block)
    return _Place(array, blocks, here, end)


def _constants(op: spec.Conv2d, w: Any, tile: Tile) -> dict[str, Any]:
    k, r, s, c = w.shape
    return {
        **{"C": c, "K": k, "R": r, "S": s, "TOP": op.padding[0], "LEFT": op.padding[2]},
        **{"PRECISION": op.precision, "BLOCK_POSITIONS": tile.rows, "BLOCK_DEPTH": tile.depth},
        **{"GROUP_ROWS": tile.group, "warps": tile.warps, "stages": tile.stages},
    }


def forward(
    x: Any, w: Any, b: Any, residual: Any, out: Any, op: spec.Conv2d, relu: bool, tile: Tile
) -> bool:
    """Launch `_conv2d_halo_kernel`; returns whether it wrote the border of out."""
    here, count = grid(x), positions(x)
    if not count:
        return True
    k, r, s, c = w.shape
    beside, target = _place(residual, x, tile), _place(out, x, tile)
    launch(
        _conv2d_halo_kernel,
        cdiv(count, tile.rows) * cdiv(k, tile.columns),
        descriptor(x, (count, c), here.pitch, (tile.rows, tile.depth)),
        descriptor(w, (k, r * s * c), r * s * c, (tile.columns, tile.depth)),
        *(b, beside.array, target.array, count, x.shape[1], x.shape[2], here.lines, here.line),
        *(*beside.grid, *target.grid),
        **{"RESIDUAL_BLOCKS": beside.blocks, "OUT_BLOCKS": target.blocks, "RELU": relu},
        **{"LONG": max(beside.end, target.end) >= LARGE, "BLOCK_FILTERS": tile.columns},
        **_constants(op, w, tile),
    )
    return target.blocks


def dgrad(
    dy: Any, w: Any, out: Any, mask: Any, db: Any, op: spec.Conv2d, tile: Tile, sums: Any
) -> bool:
    """Launch `_conv2d_dgrad_halo_kernel`; returns whether it wrote the border of out.

    `sums` is float32 [row tiles * C] of workspace where there is a db.
    """
    here, count = grid(dy), positions(dy)
    if not count:
        if db is not None:
            db[...] = 0
        return True
    k, r, s, c = w.shape
    row_tiles = cdiv(count, tile.rows)
    beside, target = _place(mask, dy, tile), _place(out, dy, tile)
    launch(
        _conv2d_dgrad_halo_kernel,
        row_tiles * cdiv(c, tile.columns),
        descriptor(dy, (count, k), here.pitch, (tile.rows, tile.depth)),
        descriptor(w, (k, r * s * c), r * s * c, (tile.depth, tile.columns)),
        *(beside.array, target.array, None if db is None else sums),
        *(count, dy.shape[1], dy.shape[2], here.lines, here.line),
        *(*beside.grid, *target.grid),
        **{"MASK_BLOCKS": beside.blocks, "OUT_BLOCKS": target.blocks},
        **{"LONG": max(beside.end, target.end) >= LARGE, "BLOCK_CHANNELS": tile.columns},
        **_constants(op, w, tile),
    )
    if db is not None:
        add_in_order(sums[: row_tiles * c], db, row_tiles)
    return target.blocks
