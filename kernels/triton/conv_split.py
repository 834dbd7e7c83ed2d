"""The second pass of a convolution whose depth is split ("split-K").

A small batch has few tiles of pixels and filters but sums as long as any: conv5 of VGG16 on one
image has 8 tiles of 128 x 128 for 132 multiprocessors. Then several programs share the (r, s, c) of
one tile. Each leaves its float32 sums in the workspace, and this pass adds them from the first
split to the last, applies what the one-pass kernel applies to its registers, and rounds once. The
order is fixed by the number of splits: the same bits every time.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..spec.grid import grid
from .border import placed
from .launch import cdiv, large, launch, narrow, wide
from .tiles import power_of_two

LEAST_STEPS = 8  # of a split: fewer would be all prologue
MOST_SPLITS = 16  # more would read and write more sums than they save


def most_splits(steps: int) -> int:
    """The most splits that `steps` steps of a sum are worth."""
    return max(1, min(steps // LEAST_STEPS, MOST_SPLITS))


def depth_splits(tiles: int, steps: int, processors: int) -> int:
    """Into how many splits the steps of each tile go so that no processor waits; 1: none."""
    return max(1, min(processors // max(tiles, 1), most_splits(steps)))


@triton.jit
def _finish_kernel(
    parts,  # [splits, pixels, C] float32
    b,  # [C] float32 or None
    residual,  # [N, H, W, C] or None
    mask,  # [N, H, W, C] or None
    sums,  # [row tiles, C] float32 or None: the shares of db
    out,  # [N, H, W, C]
    pixels, C, splits, H, W,
    beside_lines, beside_line, beside_pitch,  # of residual or mask
    out_lines, out_line, out_pitch,
    RELU: tl.constexpr, BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of out: sums in order, then bias, residual and ReLU, or mask and shares of db."""
    column_tiles = tl.cdiv(C, BLOCK_CHANNELS)
    row = tl.program_id(0) // column_tiles
    column = tl.program_id(0) % column_tiles
    if LONG:
        row = row.to(tl.int64)
        pixels = tl.cast(pixels, tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    c = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    ok = (m < pixels) & (c < C)
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for split in range(splits):
        total += tl.load(parts + ((split * pixels + m) * C + c), mask=ok, other=0.0)
    at = placed(m, H, W, beside_lines, beside_line, BORDER) * beside_pitch + c
    if b is not None:
        total += tl.load(b + c, mask=c < C, other=0.0)
    if residual is not None:
        total += wide(tl.load(residual + at, mask=ok, other=0.0))
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # a NaN is not below 0
    if mask is not None:
        gate = tl.load(mask + at, mask=ok, other=0.0)
        total = tl.where(wide(gate) <= 0, 0.0, total)  # a NaN is not below 0
    if sums is not None:
        tl.store(sums + (row * C + c), tl.sum(tl.where(ok, total, 0.0), 0)[None, :], mask=c < C)
    at = placed(m, H, W, out_lines, out_line, BORDER) * out_pitch + c
    tl.store(out + at, narrow(total, out.dtype.element_ty), mask=ok)


def finish_block(channels: int) -> tuple[int, int]:
    """(pixels, channels) of a tile of the second pass: 1024 sums, 8 of each of 128 threads."""
    columns = power_of_two(channels, 1, 64)
    return 1024 // columns, columns


def finish(
    parts: Any, splits: int, out: Any, b: Any = None, residual: Any = None, relu: bool = False,
    mask: Any = None, sums: Any = None,
) -> None:  # fmt: skip
    """out [N,H,W,C] from parts [splits * out.size] (flat float32); `sums` one row a row tile."""
    n, h, w, c = out.shape
    other = residual if mask is None else mask
    beside, here = grid(out if other is None else other), grid(out)
    rows, columns = finish_block(c)
    launch(
        _finish_kernel,
        cdiv(n * h * w, rows) * cdiv(c, columns),
        *(parts, b, residual, mask, sums, out, n * h * w, c, splits, h, w, *beside, *here),
        RELU=relu,
        BORDER=(*beside[:2], *here[:2]) != (h, w, h, w),
        LONG=large(parts, out, other),
        **{"BLOCK_PIXELS": rows, "BLOCK_CHANNELS": columns},
    )
