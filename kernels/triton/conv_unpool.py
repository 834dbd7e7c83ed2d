"""Backward of the fused convolution, ReLU and 2x2 max pool: dy goes to the pixel of the code.

A program takes BLOCK_PIXELS pixels of the gradient's output and asks, for each, whether the code of
its window is its own number (0 to 3, row-major). Nothing but the pooled gradient and the int8 codes
is read, every pixel is written once, and no two programs write the same one. The bias gradient
sums each tile's columns into the workspace, and then the tiles in their order.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..spec.grid import grid
from .border import placed
from .launch import add_in_order, cdiv, large, launch, narrow, wide
from .tiles import power_of_two


@triton.jit
def _conv2d_relu_pool_backward_kernel(
    dy,  # [N, P/2, Q/2, K]
    code,  # [N, P/2, Q/2, K] int8, contiguous
    out,  # [N, P, Q, K]
    sums,  # [row tiles, K] float32 or None: the shares of db
    pixels, P, Q, K, dy_lines, dy_line, dy_pitch, out_lines, out_line, out_pitch,
    BORDER: tl.constexpr, LONG: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_PIXELS, BLOCK_FILTERS] of out."""
    column_tiles = tl.cdiv(K, BLOCK_FILTERS)
    row = tl.program_id(0) // column_tiles
    column = tl.program_id(0) % column_tiles
    if LONG:
        row = row.to(tl.int64)
    m = (row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS))[:, None]
    k = (column * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[None, :]
    p = m // Q % P
    q = m % Q
    window = (m // Q // P * (P // 2) + p // 2) * (Q // 2) + q // 2
    pooled = (m < pixels) & (p < P // 2 * 2) & (q < Q // 2 * 2) & (k < K)
    at = tl.load(code + (window * K + k), mask=pooled, other=-1)
    window = placed(window, P // 2, Q // 2, dy_lines, dy_line, BORDER)
    gradient = wide(tl.load(dy + (window * dy_pitch + k), mask=pooled, other=0.0))
    gradient = tl.where(at == p % 2 * 2 + q % 2, gradient, 0.0)
    if sums is not None:
        tl.store(sums + (row * K + k), tl.sum(gradient, 0)[None, :], mask=k < K)
    ok = (m < pixels) & (k < K)
    m = placed(m, P, Q, out_lines, out_line, BORDER)
    tl.store(out + (m * out_pitch + k), narrow(gradient, out.dtype.element_ty), mask=ok)


def block(shape: tuple[int, ...]) -> tuple[int, int]:
    """(pixels, filters) of a tile of out with this shape [N, P, Q, K]."""
    wide = power_of_two(shape[3], 16, 128)
    return 4096 // wide, wide


def row_tiles(shape: tuple[int, ...]) -> int:
    """Tiles of pixels of out with this shape [N, P, Q, K]."""
    return cdiv(shape[0] * shape[1] * shape[2], block(shape)[0])


def unpool(dy: Any, code: Any, out: Any, db: Any, sums: Any) -> None:
    """out and db; `sums` is float32 [row_tiles * K] of workspace where there is a db."""
    n, p, q, k = out.shape
    pixels, filters = block(out.shape)
    tiles = row_tiles(out.shape)
    pooled, here = grid(dy), grid(out)
    launch(
        _conv2d_relu_pool_backward_kernel,
        tiles * cdiv(k, filters),
        *(dy, code, out, None if db is None else sums),
        *(n * p * q, p, q, k, *pooled, *here),
        BORDER=(*pooled[:2], *here[:2]) != (p // 2, q // 2, p, q),
        LONG=large(dy, out),
        **{"BLOCK_PIXELS": pixels, "BLOCK_FILTERS": filters},
    )
    if db is not None:
        if tiles:
            add_in_order(sums[: tiles * k], db, tiles)
        else:
            db[...] = 0
