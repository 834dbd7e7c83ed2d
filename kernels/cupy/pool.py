"""Pooling: max with int8 codes (pool.cu), average and global average (pool_average.cu).

A thread takes 16 bytes of neighbouring channels of one pixel of its output. The gradients gather:
an input pixel asks the few windows that cover it, in a fixed order.
"""

from __future__ import annotations

from typing import Any

from .. import spec
from ..spec import AvgPool2d, MaxPool2d
from ..spec.contract import Array, Out
from .group import launch_on_pixels, pitch, pixels_of
from .launch import pixel_pitch, usable
from .reduce import sum_pixels

AVERAGE = "pool_average.cu"
SQUARES = ((2, 2), (3, 3))  # windows that networks have: a kernel of their own


@spec.implements(spec.max_pool2d)
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """One thread a group of outputs; the taps in order, the first maximum or NaN wins."""
    usable("max_pool2d", x=x, out=out, code=code)
    arguments = x, out, code, *pixels_of(out), *_sizes(x, out), pitch(x), pitch(out), *_window(op)
    side = op.kernel[0] if op.kernel in SQUARES else 0
    launch_on_pixels("pool.cu", "max_pool2d_kernel", out, *arguments, constants=(side,))


@spec.implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """One thread a group of inputs, which takes dy of the windows whose code names its pixel."""
    usable("max_pool2d_backward", dy=dy, code=code, out=out)
    sizes = *pixels_of(out), *_sizes(out, dy), pitch(dy), pitch(out)
    launch_on_pixels(
        *("pool.cu", "max_pool2d_backward_kernel", out, dy, code, out, *sizes, *_window(op))
    )


@spec.implements(spec.avg_pool2d)
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """Sums of the taps inside the image, over what the divisor counts."""
    usable("avg_pool2d", x=x, out=out)
    arguments = x, out, *pixels_of(out), *_sizes(x, out), pitch(x), pitch(out), *_window(op)
    launch_on_pixels(AVERAGE, "avg_pool2d_kernel", out, *arguments)


@spec.implements(spec.avg_pool2d_backward)
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """Every input pixel takes its share of every window over it."""
    usable("avg_pool2d_backward", dy=dy, out=out)
    arguments = dy, out, *pixels_of(out), *_sizes(out, dy), pitch(dy), pitch(out), *_window(op)
    launch_on_pixels(AVERAGE, "avg_pool2d_backward_kernel", out, *arguments)


def _sizes(images: Any, pooled: Any) -> tuple[int, int, int, int]:
    """H, W, P, Q of images [N,H,W,C] and their pooled form [N,P,Q,C]."""
    return (*images.shape[1:3], *pooled.shape[1:3])


def _window(op: MaxPool2d | AvgPool2d) -> tuple[int, ...]:
    """The op as the kernels take it."""
    top, bottom, left, right = op.padding
    if isinstance(op, MaxPool2d):
        return (*op.kernel, *op.stride, top, left, *op.dilation)
    return (*op.kernel, *op.stride, top, bottom, left, right, int(op.count_include_pad))


@spec.implements(spec.global_avg_pool2d)
def global_avg_pool2d(x: Array, out: Out) -> None:
    """The mean of every channel of every image: one split of the pixels an image."""
    usable("global_avg_pool2d", x=x, out=out)
    n, h, w, _ = x.shape
    sum_pixels(x, out, n, h * w, pixel_pitch(x), float(h * w))


@spec.implements(spec.global_avg_pool2d_backward)
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """An equal share to every pixel of the image."""
    usable("global_avg_pool2d_backward", dy=dy, out=out)
    _, h, w, _ = out.shape
    arguments = dy, out, *pixels_of(out), h * w, pitch(out)
    launch_on_pixels(AVERAGE, "global_avg_pool2d_backward_kernel", out, *arguments)
