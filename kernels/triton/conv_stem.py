"""The patches of images with few channels, and their wgrad: for first layers, which have three.

A filter's window over C = 3 channels is 27 numbers and more, in pieces of S * C that lie together
but begin anywhere, so that no load can take two of them. What can be saved is the work around the
loads. In the kernels for many channels the threads of a warp share a pixel, and each thread finds
the corners of many pixels. Here a thread has its pixels to itself: it divides once for each,
and which of the (r, s, c) it loads is known when the kernel is compiled: what is left of one is the
test of a bit, an addition and the load. The blocks [pixels] of one (r, s, c) each are then joined
to [pixels, taps] as a tree, whose last joint is the lowest bit of the tap's number.

bf16 3x3 over 3 channels, 128 pixels, 64 filters, sm_90: 1600 instructions by the general gather,
470 so (Triton 3.9; 900 and 470 with 3.6); nothing is loaded for the taps that fill up the tile.

    dw [K, R*S*C] = sum over pixels of  dy [pixels, K] transposed  @  patches of x [pixels, R*S*C]

is split over the pixels as in `conv_wgrad.py`.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (inside a kernel numbers, blocks and constants mix in ways that Triton's annotations do not tell)

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from .conv_gather import MOST_BITS, load_pixels, taps_inside, within
from .launch import dot
from .tiles import Tile

FEW_CHANNELS = 16  # of a group: below, a block of the sum spans several taps
MOST_TAPS = 512  # (r, s, c) of a filter: each is a load that is written out


def has_few_channels(w_shape: tuple[int, ...]) -> bool:
    """Whether convolutions with filters [K, R, S, C] of a group are gathered tap by tap."""
    _, r, s, c = w_shape
    return c < FEW_CHANNELS and r * s * c <= MOST_TAPS


def wgrad_gathers_taps(w_shape: tuple[int, ...], dtype: str) -> bool:
    """Whether wgrad of such filters takes the way of few channels.

    Of float32 it does not: 128 pixels of both operands spill, and the general loop is shorter.
    """
    return dtype != "float32" and has_few_channels(w_shape)


def few_channels_tile(tile: Tile, wgrad: bool = False) -> Tile:
    """The tile of a product over few channels, made from that of any other.

    Forward: 32 taps at a time, more would be loaded at once and not fit the registers. wgrad: a
    pixel for each of 128 threads; 64 taps, for the same reason.
    """
    if not wgrad:
        return replace(tile, depth=min(tile.depth, 32))
    rows, columns = min(tile.rows, 64), min(tile.columns, 64)
    return replace(tile, rows=rows, columns=columns, depth=128, warps=4, stages=3)


@triton.jit
def _join_taps(
    corner,  # [pixels] pointers: the first pixel of each window
    x, n, h0, w0, ok, inside,  # see `few_channel_patches`; inside: the bits of `taps_inside`
    H, W, pitch,
    FIRST: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The taps FIRST, FIRST + STEP, ... of each pixel: [pixels, 2, 2, ...], COUNT of them."""
    if COUNT > 1:
        even = _join_taps(
            corner, x, n, h0, w0, ok, inside, H, W, pitch, FIRST, 2 * STEP, COUNT // 2,
            C, R, S, DILATION_H, DILATION_W, EDGE,
        )  # fmt: skip
        odd = _join_taps(
            corner, x, n, h0, w0, ok, inside, H, W, pitch, FIRST + STEP, 2 * STEP, COUNT // 2,
            C, R, S, DILATION_H, DILATION_W, EDGE,
        )  # fmt: skip
        taps = tl.join(even, odd)
    elif FIRST >= R * S * C:
        taps = tl.zeros_like(h0).to(x.dtype.element_ty)
    else:
        r = FIRST // C // S * DILATION_H
        s = FIRST // C % S * DILATION_W
        c = FIRST % C
        if EDGE:
            taps = load_pixels(x, n, h0 + r, w0 + s, c, ok, H, W, pitch, True)
        else:
            if R * S <= MOST_BITS:
                ok = (inside & (1 << (FIRST // C))) != 0
            else:
                ok = ok & within(h0 + r, H) & within(w0 + s, W)
            taps = tl.load(corner + r * (W * pitch) + (s * pitch + c), mask=ok, other=0.0)
    return taps


@triton.jit
def few_channel_patches(
    x,  # [N, H, W, C], `pitch` elements from pixel to pixel; here: the first channel of the group
    n, h0, w0,  # [pixels]: the image and the first pixel of each window
    ok,  # [pixels]
    H, W, pitch,
    FIRST: tl.constexpr, COUNT: tl.constexpr,  # of the (r, s, c) as one number
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """[pixels, COUNT]: the taps FIRST to FIRST + COUNT of each window; zeros past the last."""
    corner = x + ((n * H + h0) * W + w0) * pitch
    inside = h0
    if R * S <= MOST_BITS and not EDGE:
        inside = taps_inside(h0, w0, ok, H, W, R, S, DILATION_H, DILATION_W)
    taps = _join_taps(
        corner, x, n, h0, w0, ok, inside, H, W, pitch, FIRST, 1, COUNT,
        C, R, S, DILATION_H, DILATION_W, EDGE,
    )  # fmt: skip
    taps = tl.reshape(taps, (h0.shape[0], COUNT))
    # the blocks past the last tap were zeros; without this `where`, the compiler of Triton 3.6 to
    # 3.9 reshapes the operand of a product in shared memory, and fails on some shapes
    known = FIRST + tl.arange(0, COUNT) < R * S * C
    return tl.where(known[None, :], taps, 0.0)


@triton.jit
def _add_pixels(
    x, dy, m, k, n, p, q,
    pixels, steps, H, W, P, Q, x_pitch, dy_pitch,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
    EDGE: tl.constexpr, PRECISION: tl.constexpr,
    FIRST: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_TAPS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """The sums [BLOCK_FILTERS, BLOCK_TAPS] of the taps from FIRST over `steps` blocks of pixels."""
    total = tl.zeros((BLOCK_FILTERS, BLOCK_TAPS), tl.float32)
    for _ in range(steps):
        pixel_ok = m < pixels
        patches = few_channel_patches(
            x, n, p * STRIDE_H - TOP, q * STRIDE_W - LEFT, pixel_ok, H, W, x_pitch,
            FIRST, BLOCK_TAPS, C, R, S, DILATION_H, DILATION_W, EDGE,
        )  # fmt: skip
        part_ok = pixel_ok[None, :] & (k < K)
        part = tl.load(dy + (m[None, :] * dy_pitch + k), mask=part_ok, other=0.0)
        total = dot(part, patches, total, PRECISION)
        m += BLOCK_DEPTH
        q += BLOCK_DEPTH % Q
        over = q >= Q
        q = tl.where(over, q - Q, q)
        p += BLOCK_DEPTH // Q % P + over.to(tl.int32)
        over = p >= P
        p = tl.where(over, p - P, p)
        n += BLOCK_DEPTH // Q // P + over.to(tl.int32)
    return total


@triton.jit
def wgrad_of_few_channels_kernel(
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
    """One tile [BLOCK_FILTERS, BLOCK_TAPS] of one split; C and K are those of a group.

    Its parameters are those of `conv_wgrad.py`'s kernel.
    """
    TAPS: tl.constexpr = R * S * C
    row_tiles: tl.constexpr = (K + BLOCK_FILTERS - 1) // BLOCK_FILTERS
    column_tiles: tl.constexpr = (TAPS + BLOCK_TAPS - 1) // BLOCK_TAPS
    tiles: tl.constexpr = row_tiles * column_tiles
    split = tl.program_id(0) // tiles % splits
    group = tl.program_id(0) // tiles // splits
    row = tl.program_id(0) % row_tiles
    column = tl.program_id(0) % tiles // row_tiles
    k = (row * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))[:, None]  # in the group
    first = split * steps * BLOCK_DEPTH
    if LONG:
        k = k.to(tl.int64)
        first = split.to(tl.int64) * steps * BLOCK_DEPTH
    m = first + tl.arange(0, BLOCK_DEPTH)  # pixels of dy
    left = tl.minimum(steps, ((pixels - first + BLOCK_DEPTH - 1) // BLOCK_DEPTH).to(tl.int32))
    at = (split * (GROUPS * K) + group * K + k) * TAPS
    # each column of tiles has code of its own, in which its taps are constants
    for i in tl.static_range(column_tiles):
        if column == i:
            total = _add_pixels(
                x + group * C, dy + group * K, m, k, m // Q // P, m // Q % P, m % Q,
                pixels, left, H, W, P, Q, x_pitch, dy_pitch,
                C, K, R, S, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP, LEFT,
                EDGE, PRECISION, i * BLOCK_TAPS, BLOCK_FILTERS, BLOCK_TAPS, BLOCK_DEPTH,
            )  # fmt: skip
            t = i * BLOCK_TAPS + tl.arange(0, BLOCK_TAPS)[None, :]
            tl.store(out + (at + t), total, mask=(k < K) & (t < TAPS))
