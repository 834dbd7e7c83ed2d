"""Arrays with a border of zeros (`kernels/spec/grid.py`) for kernels that write pixels only."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..spec.grid import grid, positions
from .launch import LARGE, cdiv, launch
from .tiles import row_tile


@triton.jit
def placed(m, P, Q, lines, line, BORDER: tl.constexpr):
    """Where pixel m of images [P, Q] lies in an array with a border: a grid of `lines` x `line`."""
    if BORDER:
        m = (m // Q // P * lines + m // Q % P) * line + m % Q
    return m


@triton.jit
def _zero_border_kernel(
    out,  # [N, H, W, C]
    N, H, W, C, pitch, line, lines,
    places,  # positions of the border of each image: right of its rows, then below
    LONG: tl.constexpr, BLOCK_PLACES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile [BLOCK_PLACES, BLOCK_CHANNELS] of the border of all images."""
    blocks = tl.cdiv(C, BLOCK_CHANNELS)
    i = (tl.program_id(0) // blocks * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES))[:, None]
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    n = i // places
    i = i % places
    beside = line - W
    right = i < H * beside
    below = i - H * beside
    h = tl.where(right, i // tl.maximum(beside, 1), H + below // line)
    v = tl.where(right, W + i % tl.maximum(beside, 1), below % line)
    g = (n * lines + h) * line + v
    ok = (n < N) & (c < C)
    if LONG:
        g = g.to(tl.int64)
    zeros = tl.zeros((BLOCK_PLACES, BLOCK_CHANNELS), out.dtype.element_ty)
    tl.store(out + (g * pitch + c), zeros, mask=ok)


def zero_border(out: Any) -> None:
    """Write the zeros of the border of an NHWC array; nothing where it has none."""
    n, h, w, c = out.shape
    of = grid(out)
    places = h * (of.line - w) + (of.lines - h) * of.line
    rows, columns = row_tile(c)
    launch(
        _zero_border_kernel,
        cdiv(n * places, rows) * cdiv(c, columns),
        *(out, n, h, w, c, of.pitch, of.line, of.lines, places),
        LONG=positions(out) * of.pitch >= LARGE,
        **{"BLOCK_PLACES": rows, "BLOCK_CHANNELS": columns},
    )
