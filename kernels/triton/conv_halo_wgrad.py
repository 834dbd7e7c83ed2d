"""Gradient of the weights from images with a border of zeros: a product of two shifted matrices.

In the picture of `conv_halo.py`, x [positions, C] and dy [positions, K] lie on one grid, and

    dw[k, r, s, c] = sum over positions g of  dy[g, k] * x[g + (r - top) * line + (s - left), c]

The border of dy is zero, so positions that are no pixels add nothing. (Zero times infinity is NaN:
an infinity or NaN in x near the rim of an image spreads to more taps of dw than it strictly meets.)
A program owns a tile [BLOCK_FILTERS, BLOCK_CHANNELS] of one tap and walks over its share of the
positions; the shares are added from first to last, as in `conv_wgrad.py`.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec.grid import grid, positions
from .conv_forward import tile_of_program
from .launch import LARGE, add_in_order, cdiv, descriptor, dot, launch
from .tiles import Tile


@triton.jit
def _conv2d_wgrad_halo_kernel(
    x,  # [positions, C] by [BLOCK_DEPTH, BLOCK_CHANNELS]
    dy,  # [positions, K] by [BLOCK_DEPTH, BLOCK_FILTERS]
    out,  # [splits, K, R, S, C] float32
    line,  # positions of a row of pixels and its border
    steps,  # of BLOCK_DEPTH positions in a split
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRECISION: tl.constexpr, LONG: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_FILTERS, BLOCK_CHANNELS] of one tap and one split."""
    row_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    tap_tiles: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    tiles: tl.constexpr = row_tiles * R * S * tap_tiles
    split = tl.program_id(0) // tiles
    program = tl.program_id(0) % tiles
    row, column = tile_of_program(program, row_tiles, R * S * tap_tiles, GROUP_ROWS)
    tap = column // tap_tiles
    channel = column % tap_tiles * BLOCK_CHANNELS
    shift = (tap // S - TOP) * line + (tap % S - LEFT)
    first = split * steps * BLOCK_DEPTH
    total = tl.zeros((BLOCK_FILTERS, BLOCK_CHANNELS), tl.float32)
    for step in range(steps):
        g = first + step * BLOCK_DEPTH
        part = dy.load([g, row * BLOCK_FILTERS])
        shifted = x.load([g + shift, channel])
        total = dot(part.T, shifted, total, PRECISION)
    k = (row * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[:, None]
    c = (channel + tl.arange(0, BLOCK_CHANNELS))[None, :]
    if LONG:
        split = split.to(tl.int64)
    at = (split * K + k) * (R * S * C) + tap * C + c
    tl.store(out + at, total, mask=(k < K) & (c < C))


def wgrad(x: Any, dy: Any, out: Any, op: spec.Conv2d, tile: Tile, parts: int, memory: Any) -> None:
    """dw from `parts` splits; `memory` is float32 [parts * dw's size], or unused for one split."""
    here, count = grid(dy), positions(dy)
    if not count:
        out[...] = 0
        return
    k, r, s, c = out.shape
    target = out if parts == 1 else memory[: parts * out.size]
    launch(
        _conv2d_wgrad_halo_kernel,
        parts * cdiv(k, tile.rows) * r * s * cdiv(c, tile.columns),
        descriptor(x, (count, c), grid(x).pitch, (tile.depth, tile.columns)),
        descriptor(dy, (count, k), here.pitch, (tile.depth, tile.rows)),
        *(target, here.line, cdiv(cdiv(count, tile.depth), parts)),
        **{"C": c, "K": k, "R": r, "S": s, "TOP": op.padding[0], "LEFT": op.padding[2]},
        **{"PRECISION": op.precision, "LONG": parts * out.size >= LARGE},
        **{"BLOCK_FILTERS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_DEPTH": tile.depth},
        **{"GROUP_ROWS": tile.group, "warps": tile.warps, "stages": tile.stages},
    )
    if parts > 1:
        add_in_order(target, out, parts)
