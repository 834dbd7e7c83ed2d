"""How the convolution kernels reach the pixels that their filters see, wherever these lie."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

import triton
import triton.language as tl

MOST_BITS = tl.constexpr(31)  # of a number that tells which taps of a pixel lie in the image


@triton.jit
def within(i, extent):
    """0 <= i < extent, in one comparison."""
    if i.dtype == tl.int64:
        return i.to(tl.uint64) < tl.cast(extent, tl.uint64)
    return i.to(tl.uint32) < tl.cast(extent, tl.uint32)


@triton.jit
def taps_inside(h0, w0, ok, H, W, R: tl.constexpr, S: tl.constexpr,
                STEP_H: tl.constexpr, STEP_W: tl.constexpr):  # fmt: skip
    """A bit for each tap, r * S + s: whether (h0 + r * STEP_H, w0 + s * STEP_W) is in the image.

    Pixels that are not ok have no bits. R * S <= MOST_BITS.
    """
    rows = tl.zeros_like(h0).to(tl.int32)
    for r in tl.static_range(R):
        rows += tl.where(within(h0 + r * STEP_H, H) & ok, 1 << (r * S), 0)
    columns = tl.zeros_like(rows)
    for s in tl.static_range(S):
        columns += tl.where(within(w0 + s * STEP_W, W), 1 << s, 0)
    return rows * columns  # each bit of rows puts the columns of its row in place


@triton.jit
def load_pixels(x, n, h, w, c, ok, H, W, pitch, EDGE: tl.constexpr):
    """x[n, h, w, c], broadcast over its indices; zero, or the nearest pixel, outside the image."""
    if EDGE:
        h = tl.minimum(tl.maximum(h, 0), H - 1)
        w = tl.minimum(tl.maximum(w, 0), W - 1)
    else:
        ok = ok & within(h, H) & within(w, W)
    return tl.load(x + (((n * H + h) * W + w) * pitch + c), mask=ok, other=0.0)
