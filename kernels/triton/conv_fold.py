"""Edge padding's gradient: what the padded image received goes to the pixels it repeats.

Edge padding repeats the pixels of the border, so that the gradient of one of them sums many pixels
of the padded image. `padded` is that image's gradient in float32; for every pixel of x its program
gathers the padded pixels that repeat it, row by row. The ReLU mask and the bias gradient of the
layer below are joined here, as in `conv_dgrad.py`.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .. import spec
from .launch import cdiv, large, launch, narrow, pixel_pitch, wide
from .tiles import power_of_two

Shape = tuple[int, ...]


@triton.jit
def _fold_kernel(
    padded,  # [N, H + TOP + BOTTOM, W + LEFT + RIGHT, C] float32, contiguous
    out,  # [N, H, W, C]
    mask,  # [N, H, W, C] or None
    sums,  # [row tiles, C] float32 or None: the shares of db
    pixels, H, W, C, mask_pitch, out_pitch,
    TOP: tl.constexpr, BOTTOM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    LONG: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of out: for each pixel the sum, row by row, of the padded pixels that repeat it."""
    column_tiles = tl.cdiv(C, BLOCK_CHANNELS)
    row = tl.program_id(0) // column_tiles
    column = tl.program_id(0) % column_tiles
    if LONG:
        row = row.to(tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    c = (column * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    ok = (m < pixels) & (c < C)
    h = m // W % H
    v = m % W
    corner = (m // W // H * (H + TOP + BOTTOM) + h + TOP) * (W + LEFT + RIGHT) + v + LEFT
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for up in range(-TOP, BOTTOM + 1):
        row_ok = ok & ((up == 0) | ((up < 0) & (h == 0)) | ((up > 0) & (h == H - 1)))
        for over in range(-LEFT, RIGHT + 1):
            here = row_ok & ((over == 0) | ((over < 0) & (v == 0)) | ((over > 0) & (v == W - 1)))
            at = (corner + up * (W + LEFT + RIGHT) + over) * C + c
            total += tl.load(padded + at, mask=here, other=0.0)
    if mask is not None:
        gate = tl.load(mask + (m * mask_pitch + c), mask=ok, other=0.0)
        total = tl.where(wide(gate) <= 0, 0.0, total)  # a NaN is not below 0
    if sums is not None:
        shares = tl.sum(tl.where(ok, total, 0.0), 0)[None, :]
        tl.store(sums + (row * C + c), shares, mask=c < C)
    tl.store(out + (m * out_pitch + c), narrow(total, out.dtype.element_ty), mask=ok)


def fold_block(shape: Shape) -> tuple[int, int]:
    """(pixels, channels) of a tile of `_fold_kernel` for images of this shape [N, H, W, C]."""
    wide = power_of_two(shape[3], 16, 128)
    return 4096 // wide, wide


def fold(whole: Any, out: Any, mask: Any, sums: Any, op: spec.Conv2d) -> None:
    """dx from `whole`, the gradient of the padded image, with its mask and the shares of db."""
    n, height, width, c = out.shape
    top, bottom, left, right = op.padding
    pixels, channels = fold_block(out.shape)
    launch(
        _fold_kernel,
        cdiv(n * height * width, pixels) * cdiv(c, channels),
        *(whole, out, mask, sums, n * height * width, height, width, c),
        *(0 if mask is None else pixel_pitch(mask), pixel_pitch(out)),
        **{"TOP": top, "BOTTOM": bottom, "LEFT": left, "RIGHT": right},
        LONG=large(whole, out, mask),
        **{"BLOCK_PIXELS": pixels, "BLOCK_CHANNELS": channels},
    )
