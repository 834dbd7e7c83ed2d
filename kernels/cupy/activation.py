"""Activations besides ReLU: one sweep through memory; softmax a warp a row (activation.cu)."""

from __future__ import annotations

import math

import numpy

from .. import spec
from ..spec import Clip, LeakyRelu
from ..spec.contract import Array, Out
from .group import THREADS, launch_on_elements, launch_on_pixels
from .launch import Kernel, cdiv, launch, type_name, usable

FILE = "activation.cu"
ROWS = THREADS // 32  # of a block of softmax: one for each of its warps


def _bounds(op: Clip, x: Array) -> tuple[float, float]:
    """The bounds rounded to the type of x."""
    kind = x.dtype.type
    with numpy.errstate(over="ignore"):  # past the largest number: infinite
        return float(kind(op.low)), float(kind(op.high))


@spec.implements(spec.clip)
def clip(x: Array, out: Out, *, op: Clip) -> None:
    """out = min(max(x, low), high); a NaN stays."""
    usable("clip", x=x, out=out)
    launch_on_elements(FILE, "clip_kernel", x, out, more=_bounds(op, x))


@spec.implements(spec.clip_backward)
def clip_backward(dy: Array, x: Array, out: Out, *, op: Clip) -> None:
    """out = 0 where x <= low or x >= high, else dy."""
    usable("clip_backward", dy=dy, x=x, out=out)
    launch_on_elements(FILE, "clip_backward_kernel", dy, x, out, more=_bounds(op, x))


@spec.implements(spec.leaky_relu)
def leaky_relu(x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * x where x <= 0, else x."""
    usable("leaky_relu", x=x, out=out)
    launch_on_elements(FILE, "leaky_relu_kernel", x, x, out, more=(float(op.slope),))


@spec.implements(spec.leaky_relu_backward)
def leaky_relu_backward(dy: Array, x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * dy where x <= 0, else dy."""
    usable("leaky_relu_backward", dy=dy, x=x, out=out)
    launch_on_elements(FILE, "leaky_relu_kernel", dy, x, out, more=(float(op.slope),))


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
    pixels, channels = math.prod(x.shape[:-1]), x.shape[-1]
    images = x.reshape(pixels, 1, 1, channels)
    step = int(slope.size > 1)
    arguments = dy, x, slope, out, numpy.int64(pixels), channels, step
    launch_on_pixels(FILE, "prelu_kernel", images, *arguments)


@spec.implements(spec.softmax)
def softmax(x: Array, out: Out, *, log: bool = False) -> None:
    """exp(z) / sum exp(z), or its logarithm, for z = x - max x of each row."""
    usable("softmax", x=x, out=out)
    _launch_on_rows("softmax_kernel", log, x, out)


@spec.implements(spec.softmax_backward)
def softmax_backward(dy: Array, y: Array, out: Out, *, log: bool = False) -> None:
    """y * (dy - sum dy * y), or dy - exp(y) * sum dy."""
    usable("softmax_backward", dy=dy, y=y, out=out)
    _launch_on_rows("softmax_backward_kernel", log, dy, y, out)


def _launch_on_rows(name: str, log: bool, *arrays: Array) -> None:
    """Launch on arrays [..., classes] of one shape, a warp for every row."""
    *rows, classes = arrays[0].shape
    count = math.prod(rows)
    kernel = Kernel(FILE, f"{name}<{type_name(arrays[0])}>")
    launch(kernel, cdiv(count, ROWS), THREADS, *arrays, numpy.int64(count), classes, int(log))
