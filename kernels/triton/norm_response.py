"""Local response normalisation across channels (Krizhevsky et al. 2012) and its gradient.

Every channel reads its window of neighbours; all but the first reader find them in the cache. The
gradient computes the responses of the windows again: `size` squared reads an element, none of
which leaves the multiprocessor.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..spec import LRN
from ..spec.contract import Array
from .launch import large, narrow, pixel_pitch, wide
from .pixels import launch_on_tiles, tile_of_pixels


@triton.jit
def _response(row, c, exists, channels, k, share, SIZE: tl.constexpr):
    """k + share * the sum of x^2 over the window of channel c; `row` points to the pixels."""
    total = tl.zeros(exists.shape, tl.float32)
    for i in range(SIZE):
        at = c + (i - SIZE // 2)
        here = exists & (at >= 0) & (at < channels)
        value = wide(tl.load(row + at, mask=here, other=0.0))
        total += value * value
    return k + share * total


@triton.jit
def _lrn_kernel(
    x,  # [pixels, C], x_pitch
    out,  # the same, out_pitch
    pixels,
    channels,
    x_pitch,
    out_pitch,
    k,
    share,  # alpha / size
    beta,
    SIZE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    row = x + m * x_pitch
    response = _response(row, c, inside, channels, k, share, SIZE)
    y = wide(tl.load(row + c, mask=inside, other=0.0)) * tl.exp2(-beta * tl.log2(response))
    tl.store(out + m * out_pitch + c, narrow(y, out.dtype.element_ty), mask=inside)


@triton.jit
def _lrn_backward_kernel(
    x,  # [pixels, C], x_pitch
    dy,  # the same, dy_pitch
    out,  # dx, the same, out_pitch
    pixels,
    channels,
    x_pitch,
    dy_pitch,
    out_pitch,
    k,
    share,  # alpha / size
    beta,
    SIZE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    """dx = dy d^-beta - 2 beta share x * sum of dy x d^(-beta - 1) over the windows c is in."""
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    x_row, dy_row = x + m * x_pitch, dy + m * dy_pitch
    total = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for i in range(SIZE):
        at = c + (i - (SIZE - 1) // 2)  # the window, mirrored
        here = inside & (at >= 0) & (at < channels)
        power = tl.log2(_response(x_row, at, here, channels, k, share, SIZE))
        value = wide(tl.load(x_row + at, mask=here, other=0.0))
        gradient = wide(tl.load(dy_row + at, mask=here, other=0.0))
        total += tl.where(here, gradient * value * tl.exp2((-beta - 1.0) * power), 0.0)
    power = tl.log2(_response(x_row, c, inside, channels, k, share, SIZE))
    value = wide(tl.load(x_row + c, mask=inside, other=0.0))
    gradient = wide(tl.load(dy_row + c, mask=inside, other=0.0))
    dx = gradient * tl.exp2(-beta * power) - 2.0 * beta * share * value * total
    tl.store(out + m * out_pitch + c, narrow(dx, out.dtype.element_ty), mask=inside)


def _settings(op: LRN) -> tuple[float, float, float]:
    return op.k, op.alpha / op.size, op.beta


def response_norm(x: Array, out: Array, op: LRN) -> None:
    """out = x * response^-beta."""
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(out)
    arguments = x, out, *sizes, *_settings(op)
    launch_on_tiles(_lrn_kernel, x, *arguments, long=large(x, out), SIZE=op.size)


def response_norm_backward(x: Array, dy: Array, out: Array, op: LRN) -> None:
    """out = dx, one program a tile."""
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(dy), pixel_pitch(out)
    arguments = x, dy, out, *sizes, *_settings(op)
    constants = {"long": large(x, dy, out), "SIZE": op.size, "warps": 8}  # 4 spill on sm_80
    launch_on_tiles(_lrn_backward_kernel, x, *arguments, **constants)
