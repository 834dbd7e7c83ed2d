"""Activations besides ReLU: one sweep through memory, in float32, rounded once.

Softmax takes BLOCK_ROWS rows a program and walks over their classes twice, like the loss
(`loss.py`): first for the running maximum and the sum of exp(z - maximum), then to write.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import triton
import triton.language as tl

from .. import spec
from ..spec import Clip, LeakyRelu
from ..spec.contract import Array, Out
from .launch import cdiv, large, launch, narrow, usable, wide
from .pixels import TILE, launch_on_tiles, tile_of_pixels
from .tiles import row_tile

ROWS = 16  # of a program of softmax at most: enough programs for small batches


@triton.jit
def _clip_kernel(x, out, count, low, high, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    value = wide(tl.load(x + i, mask=i < count, other=0.0))
    value = tl.where(value < low, low, value)  # NaN is not < low
    value = tl.where(value > high, high, value)
    tl.store(out + i, narrow(value, out.dtype.element_ty), mask=i < count)


@triton.jit
def _clip_backward_kernel(dy, x, out, count, low, high, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    gradient = wide(tl.load(dy + i, mask=i < count, other=0.0))
    value = wide(tl.load(x + i, mask=i < count, other=0.0))
    gradient = tl.where((value <= low) | (value >= high), 0.0, gradient)
    tl.store(out + i, narrow(gradient, out.dtype.element_ty), mask=i < count)


@triton.jit
def _leaky_relu_kernel(dy, x, out, count, slope, BLOCK_ELEMENTS: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK_ELEMENTS + tl.arange(0, BLOCK_ELEMENTS)
    gradient = wide(tl.load(dy + i, mask=i < count, other=0.0))
    value = wide(tl.load(x + i, mask=i < count, other=0.0))
    gradient = tl.where(value <= 0, slope * gradient, gradient)
    tl.store(out + i, narrow(gradient, out.dtype.element_ty), mask=i < count)


@triton.jit
def _prelu_kernel(
    dy,  # [pixels, channels]: x itself, or the gradient
    x,
    slope,  # float32 [channels], or [1]
    out,
    pixels,
    channels,
    ONE: tl.constexpr,  # slope for all channels
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LONG: tl.constexpr,
):
    m, c, inside = tile_of_pixels(pixels, channels, BLOCK_PIXELS, BLOCK_CHANNELS, LONG)
    at = m * channels + c
    gradient = wide(tl.load(dy + at, mask=inside, other=0.0))
    value = wide(tl.load(x + at, mask=inside, other=0.0))
    factor = tl.load(slope) if ONE else tl.load(slope + c, mask=c < channels, other=0.0)
    gradient = tl.where(value <= 0, factor * gradient, gradient)
    tl.store(out + at, narrow(gradient, out.dtype.element_ty), mask=inside)


@triton.jit
def _softmax_kernel(
    x,  # [rows, classes]
    out,
    rows,
    classes,
    LOG: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = n[:, None] * classes
    k = tl.arange(0, BLOCK_CLASSES)[None, :]
    most = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)  # of exp(z - most)
    for start in range(0, classes, BLOCK_CLASSES):
        inside = (n < rows)[:, None] & (start + k < classes)
        z = wide(tl.load(x + row + (start + k), mask=inside, other=float("-inf")))
        higher = tl.maximum(most, tl.max(z, axis=1))
        new = tl.where(z == float("-inf"), 0.0, tl.exp(z - higher[:, None]))
        kept = tl.where(most == higher, total, total * tl.exp(most - higher))  # not -inf + inf
        total = kept + tl.sum(new, axis=1)
        most = higher
    for start in range(0, classes, BLOCK_CLASSES):
        inside = (n < rows)[:, None] & (start + k < classes)
        z = wide(tl.load(x + row + (start + k), mask=inside, other=0.0)) - most[:, None]
        value = z - tl.log(total)[:, None] if LOG else tl.exp(z) / total[:, None]
        tl.store(out + row + (start + k), narrow(value, out.dtype.element_ty), mask=inside)


@triton.jit
def _softmax_backward_kernel(
    dy,  # [rows, classes]
    y,
    out,
    rows,
    classes,
    LOG: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = n[:, None] * classes
    k = tl.arange(0, BLOCK_CLASSES)[None, :]
    total = tl.zeros((BLOCK_ROWS,), tl.float32)  # of dy * y, or of dy
    for start in range(0, classes, BLOCK_CLASSES):
        inside = (n < rows)[:, None] & (start + k < classes)
        part = wide(tl.load(dy + row + (start + k), mask=inside, other=0.0))
        if not LOG:
            part *= wide(tl.load(y + row + (start + k), mask=inside, other=0.0))
        total += tl.sum(part, axis=1)
    for start in range(0, classes, BLOCK_CLASSES):
        inside = (n < rows)[:, None] & (start + k < classes)
        gradient = wide(tl.load(dy + row + (start + k), mask=inside, other=0.0))
        value = wide(tl.load(y + row + (start + k), mask=inside, other=0.0))
        if LOG:
            gradient -= tl.exp(value) * total[:, None]
        else:
            gradient = value * (gradient - total[:, None])
        tl.store(out + row + (start + k), narrow(gradient, out.dtype.element_ty), mask=inside)


def _bounds(op: Clip, x: Array) -> tuple[float, float]:
    """The bounds rounded to the type of x."""
    kind = x.dtype.type
    with numpy.errstate(over="ignore"):  # past the largest number: infinite
        return float(kind(op.low)), float(kind(op.high))


@spec.implements(spec.clip)
def clip(x: Array, out: Out, *, op: Clip) -> None:
    """out = min(max(x, low), high); a NaN stays."""
    usable("clip", x=x, out=out)
    arguments = x, out, x.size, *_bounds(op, x)
    launch(_clip_kernel, cdiv(x.size, TILE), *arguments, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.clip_backward)
def clip_backward(dy: Array, x: Array, out: Out, *, op: Clip) -> None:
    """out = 0 where x <= low or x >= high, else dy."""
    usable("clip_backward", dy=dy, x=x, out=out)
    arguments = dy, x, out, x.size, *_bounds(op, x)
    launch(_clip_backward_kernel, cdiv(x.size, TILE), *arguments, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.leaky_relu)
def leaky_relu(x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * x where x <= 0, else x."""
    usable("leaky_relu", x=x, out=out)
    _leaky_relu(x, x, out, op)


@spec.implements(spec.leaky_relu_backward)
def leaky_relu_backward(dy: Array, x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * dy where x <= 0, else dy."""
    usable("leaky_relu_backward", dy=dy, x=x, out=out)
    _leaky_relu(dy, x, out, op)


def _leaky_relu(dy: Array, x: Array, out: Array, op: LeakyRelu) -> None:
    arguments = dy, x, out, x.size, float(op.slope)
    launch(_leaky_relu_kernel, cdiv(x.size, TILE), *arguments, BLOCK_ELEMENTS=TILE)


@spec.implements(spec.prelu)
def prelu(x: Array, slope: Array, out: Out) -> None:
    """out = slope * x where x <= 0, else x."""
    usable("prelu", x=x, slope=slope, out=out)
    _prelu(x, x, slope, out)


@spec.implements(spec.prelu_backward)
def prelu_backward(dy: Array, x: Array, slope: Array, out: Out) -> None:
    """out = slope * dy where x <= 0, else dy."""
    usable("prelu_backward", dy=dy, x=x, slope=slope, out=out)
    _prelu(dy, x, slope, out)


def _prelu(dy: Array, x: Array, slope: Array, out: Array) -> None:
    channels = x.shape[-1]
    images = x.reshape(math.prod(x.shape[:-1]), 1, 1, channels)
    arguments = dy, x, slope, out, images.shape[0], channels
    one, long = slope.size == 1, large(x)
    launch_on_tiles(_prelu_kernel, images, *arguments, long=long, ONE=one)


@spec.implements(spec.softmax)
def softmax(x: Array, out: Out, *, log: bool = False) -> None:
    """exp(z) / sum exp(z), or its logarithm, for z = x - max x of each row."""
    usable("softmax", x=x, out=out)
    _launch_on_rows(_softmax_kernel, log, x, out)


@spec.implements(spec.softmax_backward)
def softmax_backward(dy: Array, y: Array, out: Out, *, log: bool = False) -> None:
    """y * (dy - sum dy * y), or dy - exp(y) * sum dy."""
    usable("softmax_backward", dy=dy, y=y, out=out)
    _launch_on_rows(_softmax_backward_kernel, log, dy, y, out)


def _launch_on_rows(kernel: Any, log: bool, *arrays: Array) -> None:
    """Launch on arrays [..., classes] of one shape, a program for every few rows."""
    classes = arrays[0].shape[-1]
    rows = math.prod(arrays[0].shape[:-1])
    high, columns = row_tile(classes, TILE)
    high = min(high, ROWS)
    arguments = *arrays, rows, classes
    launch(kernel, cdiv(rows, high), *arguments, LOG=log, BLOCK_ROWS=high, BLOCK_CLASSES=columns)
