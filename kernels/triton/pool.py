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

from typing import Any

import triton
import triton.language as tl

from .. import spec
from ..spec import AvgPool2d, MaxPool2d
from ..spec.contract import Array, Out
from .launch import cdiv, large, launch, narrow, pixel_pitch, usable, wide
from .pixels import TILE, tile_of_pixels
from .tiles import row_tile


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
    for tap in tl.static_range(R * S):
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
    for window in tl.static_range(WINDOWS_H * WINDOWS_W):
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
    for tap in range(R * S):
        h, w = top + tap // S, left + tap % S
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
    for window in range(WINDOWS_H * WINDOWS_W):
        p = h // STRIDE_H - window // WINDOWS_W
        q = w // STRIDE_W - window % WINDOWS_W
        covers = (h - p * STRIDE_H < R) & (w - q * STRIDE_W < S)
        here = inside & covers & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        at = ((n * P + p) * Q + q) * dy_pitch + c
        value = wide(tl.load(dy + at, mask=here, other=0.0))
        rows = _taps_counted(p * STRIDE_H - TOP, H, R, TOP, BOTTOM, PAD)
        columns = _taps_counted(q * STRIDE_W - LEFT, W, S, LEFT, RIGHT, PAD)
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


def _launch(kernel: Any, written: Array, *arguments: Any, long: bool, **constants: Any) -> None:
    """Launch on tiles of `written` [N,H,W,C]; `long`: offsets need 64 bits."""
    *image, channels = written.shape
    pixels = image[0] * image[1] * image[2]
    rows, columns = row_tile(channels, TILE)
    programs = cdiv(pixels, rows) * cdiv(channels, columns)
    constants.update(BLOCK_PIXELS=rows, BLOCK_CHANNELS=columns, LONG=long)
    launch(kernel, programs, *arguments, **constants)


def _window(op: MaxPool2d | AvgPool2d) -> dict[str, int | bool]:
    """The op as constants of a kernel."""
    constants: dict[str, int | bool] = {
        **{"R": op.kernel[0], "S": op.kernel[1]},
        **{"STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1]},
        **{"TOP": op.padding[0], "LEFT": op.padding[2]},
    }
    if isinstance(op, MaxPool2d):
        return {**constants, "DILATION_H": op.dilation[0], "DILATION_W": op.dilation[1]}
    ends = {"BOTTOM": op.padding[1], "RIGHT": op.padding[3]}
    return {**constants, **ends, "PAD": op.count_include_pad}


def _windows_of_a_pixel(op: MaxPool2d | AvgPool2d) -> dict[str, int]:
    reach = op.reach if isinstance(op, MaxPool2d) else op.kernel
    counts = (cdiv(length, stride) for length, stride in zip(reach, op.stride, strict=True))
    return dict(zip(("WINDOWS_H", "WINDOWS_W"), counts, strict=True))


@spec.implements(spec.max_pool2d)
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """One program a tile of outputs; the taps in order, the first maximum or NaN wins."""
    usable("max_pool2d", x=x, out=out, code=code)
    (_, h, w, c), (n, p, q, _) = x.shape, out.shape
    sizes = n * p * q, c, h, w, p, q, pixel_pitch(x), pixel_pitch(out)
    _launch(
        *(_max_pool2d_kernel, out, x, out, code, *sizes), long=large(x, out, code), **_window(op)
    )


@spec.implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """One program a tile of input pixels, which takes dy of the windows whose code names it."""
    usable("max_pool2d_backward", dy=dy, code=code, out=out)
    (_, p, q, _), (n, h, w, c) = dy.shape, out.shape
    sizes = n * h * w, c, h, w, p, q, pixel_pitch(dy), pixel_pitch(out)
    constants = {**_window(op), **_windows_of_a_pixel(op)}
    constants.pop("R")
    long = large(dy, code, out)
    _launch(_max_pool2d_backward_kernel, out, dy, code, out, *sizes, long=long, **constants)


@spec.implements(spec.avg_pool2d)
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """One program a tile of outputs: the sum of the taps inside, over what the divisor counts."""
    usable("avg_pool2d", x=x, out=out)
    (_, h, w, c), (n, p, q, _) = x.shape, out.shape
    sizes = n * p * q, c, h, w, p, q, pixel_pitch(x), pixel_pitch(out)
    _launch(_avg_pool2d_kernel, out, x, out, *sizes, long=large(x, out), **_window(op))


@spec.implements(spec.avg_pool2d_backward)
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """One program a tile of input pixels, which takes its share of every window over it."""
    usable("avg_pool2d_backward", dy=dy, out=out)
    (_, p, q, _), (n, h, w, c) = dy.shape, out.shape
    sizes = n * h * w, c, h, w, p, q, pixel_pitch(dy), pixel_pitch(out)
    constants = {**_window(op), **_windows_of_a_pixel(op)}
    _launch(_avg_pool2d_backward_kernel, out, dy, out, *sizes, long=large(dy, out), **constants)


@spec.implements(spec.global_avg_pool2d)
def global_avg_pool2d(x: Array, out: Out) -> None:
    """One program an image and block of channels, through all of its pixels."""
    usable("global_avg_pool2d", x=x, out=out)
    n, h, w, c = x.shape
    columns = row_tile(c, 64)[1]
    rows = row_tile(h * w, TILE // columns)[1]
    launch(
        *(_global_avg_pool2d_kernel, n * cdiv(c, columns), x, out, h * w, c, pixel_pitch(x)),
        BLOCK_PIXELS=rows,
        BLOCK_CHANNELS=columns,
    )


@spec.implements(spec.global_avg_pool2d_backward)
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """One program a tile of pixels, all of one image alike."""
    usable("global_avg_pool2d_backward", dy=dy, out=out)
    n, h, w, c = out.shape
    sizes = n * h * w, h * w, c, pixel_pitch(out)
    _launch(_global_avg_pool2d_backward_kernel, out, dy, out, *sizes, long=large(dy, out))
