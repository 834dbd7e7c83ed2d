"""Gradient with respect to w: a matrix product summed over pixels, split, and added in order.

    dw [K, R*S*C] = sum over pixels of  dy [pixels, K] transposed  @  patches of x [pixels, R*S*C]

The patches are gathered as in the forward kernel (implicit GEMM, as in CUTLASS's documentation of
implicit_gemm_convolution). A program owns a tile [BLOCK_FILTERS, BLOCK_TAPS] of dw, where a tap is
one (r, s, c), and walks over its share of the pixels. dw is small and the pixels are many, so they
are shared out among `splits` programs for each tile; each leaves its float32 sums in the workspace
and a second pass adds them from the first split to the last: the same bits every time, without
atomics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.contract import dtype_name
from ..spec.grid import grid, positions
from . import conv_depthwise
from .conv_forward import constants, tile_of_program
from .conv_gather import load_pixels
from .conv_stem import wgrad_gathers_taps, wgrad_of_few_channels_kernel
from .gpu import architecture
from .launch import add_in_order, cdiv, dot, large, launch, multiprocessors
from .tiles import Tile, product_tile

LEAST_STEPS = 8  # of a split: fewer would be all prologue
MOST_SPLITS = 64


@triton.jit
def _conv2d_wgrad_kernel(
    x,  # [N, H, W, C]
    dy,  # [N, P, Q, K]
    out,  # [splits, K, R, S, C/groups] float32
    pixels, H, W, P, Q, splits, steps,  # steps of BLOCK_DEPTH pixels in a split
    x_pitch, dy_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, GROUPS: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, PRECISION: tl.constexpr, LONG: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_FILTERS, BLOCK_TAPS] of one split; C and K are those of a group."""
    TAPS: tl.constexpr = R * S * C
    row_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    column_tiles: tl.constexpr = (TAPS + BLOCK_TAPS - 1) // BLOCK_TAPS
    tiles: tl.constexpr = row_tiles * column_tiles
    split = tl.program_id(0) // tiles % splits
    group = tl.program_id(0) // tiles // splits
    row, column = tile_of_program(tl.program_id(0) % tiles, row_tiles, column_tiles, GROUP_ROWS)
    k = (row * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[:, None]  # in the group
    t = (column * BLOCK_TAPS + tl.arange(0, BLOCK_TAPS))[None, :]
    if C % BLOCK_TAPS == 0:  # the tile lies in one tap (r, s): numbers instead of blocks of them
        tap = column * BLOCK_TAPS // C
        r = tap // S
        s = tap % S
    else:
        r = t // C // S
        s = t // C % S
    c = t % C
    first = split * steps * BLOCK_DEPTH
    if LONG:
        k = k.to(tl.int64)
        c = c.to(tl.int64)
        first = split.to(tl.int64) * steps * BLOCK_DEPTH
    m = first + tl.arange(0, BLOCK_DEPTH)  # [BLOCK_DEPTH] pixels of dy
    q = (m % Q)[:, None]  # [BLOCK_DEPTH, 1]
    p = (m // Q % P)[:, None]
    n = (m // Q // P)[:, None]
    part_at = m[None, :] * dy_pitch + k  # [BLOCK_FILTERS, BLOCK_DEPTH]
    x += group * C
    dy += group * K
    total = tl.zeros((BLOCK_FILTERS, BLOCK_TAPS), tl.float32)
    last = (pixels - first + BLOCK_DEPTH - 1) // BLOCK_DEPTH
    for _ in range(tl.minimum(steps, last.to(tl.int32))):
        pixel_ok = m < pixels if not EVEN else tl.full((BLOCK_DEPTH,), True, tl.int1)
        h = p * STRIDE_H + (r * DILATION_H - TOP)
        v = q * STRIDE_W + (s * DILATION_W - LEFT)
        ok = pixel_ok[:, None]
        if TAPS % BLOCK_TAPS != 0:
            ok = ok & (t < TAPS)
        patches = load_pixels(x, n, h, v, c, ok, H, W, x_pitch, EDGE)  # [BLOCK_DEPTH, BLOCK_TAPS]
        part_ok = pixel_ok[None, :]
        if K % BLOCK_FILTERS != 0:
            part_ok = part_ok & (k < K)
        part = tl.load(dy + part_at, mask=part_ok, other=0.0)
        total = dot(part, patches, total, PRECISION)
        # BLOCK_DEPTH pixels on, by carries: divisions by P and Q would take half of the loop
        m += BLOCK_DEPTH
        dy += BLOCK_DEPTH * dy_pitch
        q += BLOCK_DEPTH % Q
        over = q >= Q
        q = tl.where(over, q - Q, q)
        p += BLOCK_DEPTH // Q % P + over.to(tl.int32)
        over = p >= P
        p = tl.where(over, p - P, p)
        n += BLOCK_DEPTH // Q // P + over.to(tl.int32)
    at = (split * (GROUPS * K) + group * K + k) * TAPS + t
    tl.store(out + at, total, mask=(k < K) & (t < TAPS))


def gathered_tile(filters: int, taps: int, pixels: int, dtype: str, precision: str) -> Tile:
    """The rule's tile of dw [filters, taps] of a group, with 8 warps from 64 x 128 sums on.

    Beside its sums a thread keeps the place of its pixel: 4 warps spilled on sm_80 and sm_100.
    """
    tile = product_tile(filters, taps, pixels, dtype, precision, architecture=architecture())
    return replace(tile, warps=8) if tile.rows * tile.columns >= 64 * 128 else tile


def splits(tile: Tile, pixels: int, w_shape: tuple[int, ...], groups: int) -> int:
    """Into how many shares the pixels go: about two programs for each multiprocessor."""
    taps = w_shape[1] * w_shape[2] * w_shape[3]
    tiles = groups * cdiv(w_shape[0] // groups, tile.rows) * cdiv(taps, tile.columns)
    most = cdiv(pixels, tile.depth) // LEAST_STEPS
    return max(1, min(2 * multiprocessors() // tiles, most, MOST_SPLITS))


def wgrad(
    x: Any, dy: Any, out: Any, op: spec.Conv2d, tile: Tile, parts: int, memory: Any,
    depthwise: bool = False,
) -> None:  # fmt: skip
    """dw from `parts` splits; `memory` is float32 [parts * dw's size], or unused for one split."""
    seen, summed = grid(x), grid(dy)
    pixels = positions(dy)  # a border adds zeros
    if pixels == 0:
        out[...] = 0
        return
    taps = out.shape[1] * out.shape[2] * out.shape[3]
    tiles = cdiv(out.shape[0] // op.groups, tile.rows) * cdiv(taps, tile.columns)
    target = out if parts == 1 else memory[: parts * out.size]
    if depthwise:
        conv_depthwise.wgrad(x, dy, target, op, out.shape, tile, parts)
    else:
        few = wgrad_gathers_taps(out.shape, dtype_name(x))
        launch(
            wgrad_of_few_channels_kernel if few else _conv2d_wgrad_kernel,
            op.groups * parts * tiles,
            *(x, dy, target, pixels, seen.lines, seen.line, summed.lines, summed.line),
            *(parts, cdiv(cdiv(pixels, tile.depth), parts), seen.pitch, summed.pitch),
            **constants(op, out.shape),
            EDGE=op.padding_mode == "edge",
            EVEN=pixels % tile.depth == 0,
            LONG=large(x, dy) or parts * out.size >= 2**31,
            **{"BLOCK_FILTERS": tile.rows, "BLOCK_TAPS": tile.columns, "BLOCK_DEPTH": tile.depth},
            **{"GROUP_ROWS": tile.group, "warps": tile.warps, "stages": tile.stages},
        )
    if parts > 1:
        add_in_order(target, out, parts)
