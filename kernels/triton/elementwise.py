"""Element-wise functions: flat blocks of BLOCK_ELEMENTS, widened to float32, rounded once.

Each is one sweep through memory. Offsets are int64: an arena or a large activation may hold more
than 2^31 elements. Concat and its gradient copy tiles of pixels x channels between two pitches.

Dropout draws from Philox4x32-10 (Salmon et al. 2011) with the words of `kernels/philox.py`: the
block i // 4 of a stream makes the numbers of elements 4i … 4i + 3, so a program works on whole
groups of four elements and the mask is the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .. import spec
from ..spec import Dropout
from ..spec.contract import Array, Out
from .launch import address, cdiv, large, launch, narrow, pixel_pitch, usable, wide
from .pixels import TILE, launch_on_tiles, tile_of_pixels


@triton.jit
def _relu_kernel(x, out, count, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    value = wide(tl.load(x + i, mask=i < count, other=0.0))
    value = tl.where(value <= 0, 0.0, value)  # NaN is not <= 0
    tl.store(out + i, narrow(value, out.dtype.element_ty), mask=i < count)


@triton.jit
def _relu_backward_kernel(dy, y, out, count, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    gradient = wide(tl.load(dy + i, mask=i < count, other=0.0))
    value = wide(tl.load(y + i, mask=i < count, other=0.0))
    gradient = tl.where(value <= 0, 0.0, gradient)
    tl.store(out + i, narrow(gradient, out.dtype.element_ty), mask=i < count)


@triton.jit
def _add_kernel(a, b, out, count, RELU: tl.constexpr, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    total = wide(tl.load(a + i, mask=i < count, other=0.0))
    total += wide(tl.load(b + i, mask=i < count, other=0.0))
    if RELU:
        total = tl.where(total <= 0, 0.0, total)
    tl.store(out + i, narrow(total, out.dtype.element_ty), mask=i < count)


@triton.jit
def _mul_kernel(a, b, out, count, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    product = wide(tl.load(a + i, mask=i < count, other=0.0))
    product *= wide(tl.load(b + i, mask=i < count, other=0.0))
    tl.store(out + i, narrow(product, out.dtype.element_ty), mask=i < count)


@triton.jit
def _cast_kernel(x, out, count, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    value = wide(tl.load(x + i, mask=i < count, other=0.0))
    tl.store(out + i, narrow(value, out.dtype.element_ty), mask=i < count)


@triton.jit
def _dropout_kernel(
    x,
    out,
    key,  # uint32 [4]: seed low, seed high, step, stream
    count,
    threshold,  # elements are kept whose number is >= this
    scale,  # 1 / (1 - p)
    BLOCK_GROUPS: tl.constexpr,  # of four elements
):
    BLOCK_ELEMENTS: tl.constexpr = 4 * BLOCK_GROUPS
    start = tl.program_id(0).to(tl.int64)
    group = start * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    low, high = group.to(tl.uint32), (group >> 32).to(tl.uint32)
    zero = tl.zeros((BLOCK_GROUPS,), tl.uint32)
    step, stream = zero + tl.load(key + 2), zero + tl.load(key + 3)
    w0, w1, w2, w3 = tl.philox_impl(low, high, step, stream, tl.load(key), tl.load(key + 1))
    number = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))  # w0 w1 w2 w3 w0 …
    i = start * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    value = wide(tl.load(x + i, mask=i < count, other=0.0)) * scale
    value = tl.where(number >= tl.cast(threshold, tl.uint32), value, 0.0)
    tl.store(out + i, narrow(value, out.dtype.element_ty), mask=i < count)


@triton.jit
def _copy_channels_kernel(
    x,  # [pixels, channels], x_pitch elements from pixel to pixel
    out,  # the same, out_pitch
    pixels,
    channels,
    x_pitch,
    out_pitch,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    value = tl.load(x + m * x_pitch + c, mask=inside, other=0.0)
    tl.store(out + m * out_pitch + c, value, mask=inside)


@spec.implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """out = max(0, x); a NaN stays."""
    usable("relu", x=x, out=out)
    launch(_relu_kernel, cdiv(x.size, TILE), x, out, x.size, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """out = 0 where y <= 0, else dy."""
    usable("relu_backward", dy=dy, y=y, out=out)
    launch(_relu_backward_kernel, cdiv(y.size, TILE), dy, y, out, y.size, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.add)
def add(a: Array, b: Array, out: Out, *, relu: bool = False) -> None:
    """out = a + b in float32, then max(0, ·) if `relu`."""
    usable("add", a=a, b=b, out=out)
    programs = cdiv(a.size, TILE)
    launch(_add_kernel, programs, a, b, out, a.size, RELU=relu, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.mul)
def mul(a: Array, b: Array, out: Out) -> None:
    """out = a * b in float32."""
    usable("mul", a=a, b=b, out=out)
    launch(_mul_kernel, cdiv(a.size, TILE), a, b, out, a.size, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.concat)
def concat(xs: Sequence[Array], out: Out) -> None:
    """One launch an array, except for one that already is its slice of out."""
    usable("concat", out=out, **{f"xs[{i}]": x for i, x in enumerate(xs)})
    offset = 0
    for x in xs:
        _copy(x, out[..., offset : offset + x.shape[-1]])
        offset += x.shape[-1]


@spec.implements(spec.channel_slice)
def channel_slice(x: Array, out: Out, *, offset: int) -> None:
    """Copy the channels from `offset` on, unless out is that slice of x already."""
    usable("channel_slice", x=x, out=out)
    _copy(x[..., offset : offset + out.shape[-1]], out)


def _copy(x: Array, out: Array) -> None:
    """out = x for arrays [N,H,W,C] of two pitches."""
    if address(x) == address(out) and x.strides == out.strides:
        return
    n, h, w, c = x.shape
    sizes = n * h * w, c, pixel_pitch(x), pixel_pitch(out)
    launch_on_tiles(_copy_channels_kernel, x, x, out, *sizes, long=large(x, out))


@spec.implements(spec.dropout)
def dropout(x: Array, out: Out, *, op: Dropout, key: Array) -> None:
    """Element i is kept, and scaled, where number i of the stream is >= the threshold."""
    usable("dropout", x=x, out=out, key=key)
    launch(
        _dropout_kernel,
        cdiv(x.size, TILE),
        *(x, out, key, x.size, op.threshold, 1.0 / (1.0 - op.p)),
        BLOCK_GROUPS=TILE // 4,
    )


@spec.implements(spec.cast)
def cast(x: Array, out: Out) -> None:
    """out = x in out's type, rounded to nearest even once."""
    usable("cast", x=x, out=out)
    launch(_cast_kernel, cdiv(x.size, TILE), x, out, x.size, BLOCK_ELEMENTS=TILE)
