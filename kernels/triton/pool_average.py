"""Average pooling, global average pooling and their gradients; the method is that of `pool.py`.

A window's divisor is the product of the pixels that count along H and along W: all of the window
that lies in the padded image, or in the image alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..spec import AvgPool2d
from ..spec.contract import Array
from .launch import cdiv, large, launch, narrow, pixel_pitch, wide
from .pixels import TILE, launch_on_tiles, tile_of_pixels
from .tiles import row_tile


@triton.jit
def _taps_counted(
    start, size, TAPS: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, PAD: tl.constexpr
):
    """How many of the pixels start … start + TAPS - 1 the average counts along one axis."""
    if PAD:
        return tl.minimum(start + TAPS, size + AFTER) - start
    return tl.minimum(start + TAPS, size) - tl.maximum(start, 0)


@triton.jit
def _avg_pool2d_kernel(
    x,  # [N, H, W, C], x_pitch
    out,  # [N, P, Q, C], out_pitch
    pixels,  # N*P*Q
    channels,
    H,
    W,
    P,
    Q,
    x_pitch,
    out_pitch,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    BOTTOM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    PAD: tl.constexpr,  # whether padding counts
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    n, top, left = m // (P * Q), m // Q % P * STRIDE_H - TOP, m % Q * STRIDE_W - LEFT
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for r in range(R):
        for s in range(S):
            h, w = top + r, left + s
            here = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            at = ((n * H + h) * W + w) * x_pitch + c
            total += wide(tl.load(x + at, mask=here, other=0.0))
    rows = _taps_counted(top, H, R, TOP, BOTTOM, PAD)
    columns = _taps_counted(left, W, S, LEFT, RIGHT, PAD)
    mean = total / (rows * columns).to(tl.float32)
    tl.store(out + m * out_pitch + c, narrow(mean, out.dtype.element_ty), mask=inside)


@triton.jit
def _avg_pool2d_backward_kernel(
    dy,  # [N, P, Q, C], dy_pitch
    out,  # dx [N, H, W, C], out_pitch
    pixels,  # N*H*W
    channels,
    H,
    W,
    P,
    Q,
    dy_pitch,
    out_pitch,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    BOTTOM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    PAD: tl.constexpr,
    WINDOWS_H: tl.constexpr,  # that can cover one pixel
    WINDOWS_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    n, h, w = m // (H * W), m // W % H + TOP, m % W + LEFT  # h and w count from the padding
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for i in range(WINDOWS_H):
        p = h // STRIDE_H - i
        rows = _taps_counted(p * STRIDE_H - TOP, H, R, TOP, BOTTOM, PAD)
        covers = inside & (h - p * STRIDE_H < R) & (p >= 0) & (p < P)
        for j in range(WINDOWS_W):
            q = w // STRIDE_W - j
            columns = _taps_counted(q * STRIDE_W - LEFT, W, S, LEFT, RIGHT, PAD)
            here = covers & (w - q * STRIDE_W < S) & (q >= 0) & (q < Q)
            at = ((n * P + p) * Q + q) * dy_pitch + c
            value = wide(tl.load(dy + at, mask=here, other=0.0))
            total += tl.where(here, value / (rows * columns).to(tl.float32), 0.0)
    tl.store(out + m * out_pitch + c, narrow(total, out.dtype.element_ty), mask=inside)


@triton.jit
def _global_avg_pool2d_kernel(
    x,  # [N, H*W, C], x_pitch
    out,  # [N, C]
    pixels,  # H*W
    channels,
    x_pitch,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    image = x + n * pixels * x_pitch
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for start in range(0, pixels, BLOCK_PIXELS):
        m = (start + tl.arange(0, BLOCK_PIXELS))[:, None]
        here = (m < pixels) & (c < channels)[None, :]
        at = m.to(tl.int64) * x_pitch + c[None, :]
        total += wide(tl.load(image + at, mask=here, other=0.0))
    mean = tl.sum(total, axis=0) / pixels
    tl.store(out + n * channels + c, narrow(mean, out.dtype.element_ty), mask=c < channels)


@triton.jit
def _global_avg_pool2d_backward_kernel(
    dy,  # [N, C]
    out,  # dx [N*H*W, C], out_pitch
    pixels,  # N*H*W
    pixels_of_image,
    channels,
    out_pitch,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    at = m // pixels_of_image * channels + c
    share = wide(tl.load(dy + at, mask=inside, other=0.0)) / pixels_of_image
    tl.store(out + m * out_pitch + c, narrow(share, out.dtype.element_ty), mask=inside)


def _window(op: AvgPool2d) -> dict[str, int | bool]:
    """The op as constants of a kernel."""
    return {
        **{"R": op.kernel[0], "S": op.kernel[1]},
        **{"STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]},
        **{"TOP": op.padding[0], "BOTTOM": op.padding[1]},
        **{"LEFT": op.padding[2], "RIGHT": op.padding[3], "PAD": op.count_include_pad},
    }


def average(x: Array, out: Array, op: AvgPool2d) -> None:
    """One program a tile of outputs: the sum of the taps inside, over what the divisor counts."""
    (_, h, w, c), (n, p, q, _) = x.shape, out.shape
    sizes = n * p * q, c, h, w, p, q, pixel_pitch(x), pixel_pitch(out)
    launch_on_tiles(_avg_pool2d_kernel, out, x, out, *sizes, long=large(x, out), **_window(op))


def average_backward(dy: Array, out: Array, op: AvgPool2d) -> None:
    """One program a tile of input pixels, which takes its share of every window over it."""
    (_, p, q, _), (n, h, w, c) = dy.shape, out.shape
    sizes = n * h * w, c, h, w, p, q, pixel_pitch(dy), pixel_pitch(out)
    windows = {f"WINDOWS_{'HW'[i]}": cdiv(op.kernel[i], op.stride[i]) for i in (0, 1)}
    launch_on_tiles(
        *(_avg_pool2d_backward_kernel, out, dy, out, *sizes),
        **{"long": large(dy, out), **_window(op), **windows},
    )


def global_average(x: Array, out: Array) -> None:
    """One program an image and block of channels, through all of its pixels."""
    n, h, w, c = x.shape
    columns = row_tile(c, 64)[1]
    rows = row_tile(h * w, TILE // columns)[1]
    launch(
        *(_global_avg_pool2d_kernel, n * cdiv(c, columns), x, out, h * w, c, pixel_pitch(x)),
        BLOCK_PIXELS=rows,
        BLOCK_CHANNELS=columns,
    )


def global_average_backward(dy: Array, out: Array) -> None:
    """One program a tile of pixels, all of one image alike."""
    n, h, w, c = out.shape
    sizes = n * h * w, h * w, c, pixel_pitch(out)
    kernel = _global_avg_pool2d_backward_kernel
    launch_on_tiles(kernel, out, dy, out, *sizes, long=large(dy, out))
