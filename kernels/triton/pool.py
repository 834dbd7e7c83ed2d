"""Pooling: max with int8 codes, average, global average, and their gradients.

Every kernel works on tiles of BLOCK_PIXELS pixels x BLOCK_CHANNELS neighbouring channels of its
output, so that loads and stores are whole vectors along C. All of them are bound by memory: a max
pool of 2x2 windows reads 4 numbers and writes one and a byte of code, where an index of 64 bits
would double the traffic.

The gradients gather: an input pixel asks the few windows that cover it, in a fixed order. Nothing
is added by atomics, nothing need be zeroed before, and the same inputs give the same bits.

Along one axis, window p starts at p*stride - before, and its tap r lies r*dilation further. The
last window over pixel h is (h + before) // stride; at most ceil(reach / stride) windows, counting
down from it, cover h.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import spec
from ..spec import AvgPool2d, MaxPool2d
from ..spec.contract import Array, Out
from . import pool_average
from .launch import cdiv, large, narrow, pixel_pitch, usable, wide
from .pixels import launch_on_tiles, tile_of_pixels


@triton.jit
def _max_pool2d_kernel(
    x,  # [N, H, W, C], x_pitch elements from pixel to pixel
    out,  # [N, P, Q, C], out_pitch
    code,  # int8 [N, P, Q, C], contiguous, or None
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
    LEFT: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    n, p, q = m // (P * Q), m // Q % P, m % Q
    best = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), float("-inf"), tl.float32)
    found = tl.full((BLOCK_PIXELS, BLOCK_CHANNELS), -1, tl.int32)  # no tap yet
    for tap in tl.static_range(R * S):  # type: ignore[misc]
        h = p * STRIDE_H - TOP + tap // S * DILATION_H
        w = q * STRIDE_W - LEFT + tap % S * DILATION_W
        here = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        at = ((n * H + h) * W + w) * x_pitch + c
        value = wide(tl.load(x + at, mask=here, other=0.0))
        first_nan = (value != value) & (best == best)
        better = here & ((found < 0) | (value > best) | first_nan)
        best = tl.where(better, value, best)
        found = tl.where(better, tap, found)
    tl.store(out + m * out_pitch + c, narrow(best, out.dtype.element_ty), mask=inside)
    if code is not None:
        found = tl.maximum(found, 0).to(tl.int8)  # a window of padding alone
        tl.store(code + m * channels + c, found, mask=inside)


@triton.jit
def _max_pool2d_backward_kernel(
    dy,  # [N, P, Q, C], dy_pitch
    code,  # int8 [N, P, Q, C], contiguous
    out,  # dx [N, H, W, C], out_pitch
    pixels,  # N*H*W
    channels,
    H,
    W,
    P,
    Q,
    dy_pitch,
    out_pitch,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    WINDOWS_H: tl.constexpr,  # that can cover one pixel
    WINDOWS_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    n, h, w = m // (H * W), m // W % H + TOP, m % W + LEFT  # h and w count from the padding
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for window in tl.static_range(WINDOWS_H * WINDOWS_W):  # type: ignore[misc]
        p = h // STRIDE_H - window // WINDOWS_W
        q = w // STRIDE_W - window % WINDOWS_W
        below, beside = h - p * STRIDE_H, w - q * STRIDE_W  # from the window's first pixel
        here = inside & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        pixel = (n * P + p) * Q + q
        named = tl.load(code + pixel * channels + c, mask=here, other=-1).to(tl.int32)
        value = wide(tl.load(dy + pixel * dy_pitch + c, mask=here, other=0.0))
        r, s = named // S, named % S
        total += tl.where((r * DILATION_H == below) & (s * DILATION_W == beside), value, 0.0)
    tl.store(out + m * out_pitch + c, narrow(total, out.dtype.element_ty), mask=inside)


def _window(op: MaxPool2d) -> dict[str, int]:
    """The op as constants of a kernel."""
    return {
        **{"STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]},
        **{"TOP": op.padding[0], "LEFT": op.padding[2]},
        **{"DILATION_H": op.dilation[0], "DILATION_W": op.dilation[1]},
    }


@spec.implements(spec.max_pool2d)
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """One program a tile of outputs; the taps in order, the first maximum or NaN wins."""
    usable("max_pool2d", x=x, out=out, code=code)
    (_, h, w, c), (n, p, q, _) = x.shape, out.shape
    sizes = n * p * q, c, h, w, p, q, pixel_pitch(x), pixel_pitch(out)
    taps = {"R": op.kernel[0], "S": op.kernel[1]}
    launch_on_tiles(
        *(_max_pool2d_kernel, out, x, out, code, *sizes),
        **{"long": large(x, out, code), **taps, **_window(op)},
    )


@spec.implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """One program a tile of input pixels, which takes dy of the windows whose code names it."""
    usable("max_pool2d_backward", dy=dy, code=code, out=out)
    (_, p, q, _), (n, h, w, c) = dy.shape, out.shape
    sizes = n * h * w, c, h, w, p, q, pixel_pitch(dy), pixel_pitch(out)
    windows = {f"WINDOWS_{'HW'[i]}": cdiv(op.reach[i], op.stride[i]) for i in (0, 1)}
    launch_on_tiles(
        *(_max_pool2d_backward_kernel, out, dy, code, out, *sizes),
        **{"long": large(dy, code, out), "S": op.kernel[1], **_window(op), **windows},
    )


@spec.implements(spec.avg_pool2d)
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """Sums of the taps inside the image, over what the divisor counts."""
    usable("avg_pool2d", x=x, out=out)
    pool_average.average(x, out, op)


@spec.implements(spec.avg_pool2d_backward)
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """Every input pixel takes its share of every window over it."""
    usable("avg_pool2d_backward", dy=dy, out=out)
    pool_average.average_backward(dy, out, op)


@spec.implements(spec.global_avg_pool2d)
def global_avg_pool2d(x: Array, out: Out) -> None:
    """The mean of every channel of every image, its pixels in order."""
    usable("global_avg_pool2d", x=x, out=out)
    pool_average.global_average(x, out)


@spec.implements(spec.global_avg_pool2d_backward)
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """An equal share to every pixel of the image."""
    usable("global_avg_pool2d_backward", dy=dy, out=out)
    pool_average.global_average_backward(dy, out)
