"""Element-wise functions: one sweep through memory, 16 bytes a thread (elementwise.cu).

Dropout draws from Philox4x32-10 (Salmon et al. 2011) with the words of `kernels/philox.py`; its
mask is the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from .. import spec
from ..spec import Dropout
from ..spec.contract import Array, Out
from .group import launch_on_elements, launch_on_pixels, pitch, pixels_of
from .launch import address, usable

FILE = "elementwise.cu"


@spec.implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """out = max(0, x); a NaN stays."""
    usable("relu", x=x, out=out)
    launch_on_elements(FILE, "relu_kernel", x, out)


@spec.implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """out = 0 where y <= 0, else dy."""
    usable("relu_backward", dy=dy, y=y, out=out)
    launch_on_elements(FILE, "relu_backward_kernel", dy, y, out)


@spec.implements(spec.add)
def add(a: Array, b: Array, out: Out, *, relu: bool = False) -> None:
    """out = a + b in float32, then max(0, ·) if `relu`."""
    usable("add", a=a, b=b, out=out)
    launch_on_elements(FILE, "add_kernel", a, b, out, more=(int(relu),))


@spec.implements(spec.mul)
def mul(a: Array, b: Array, out: Out) -> None:
    """out = a * b in float32."""
    usable("mul", a=a, b=b, out=out)
    launch_on_elements(FILE, "mul_kernel", a, b, out)


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
    arguments = x, out, *pixels_of(x), pitch(x), pitch(out)
    launch_on_pixels(FILE, "copy_channels_kernel", x, *arguments)


@spec.implements(spec.dropout)
def dropout(x: Array, out: Out, *, op: Dropout, key: Array) -> None:
    """Element i is kept, and scaled, where number i of the stream is >= the threshold."""
    usable("dropout", x=x, out=out, key=key)
    more = numpy.int64(op.threshold), 1.0 / (1.0 - op.p)
    launch_on_elements(FILE, "dropout_kernel", x, out, more=(key, *more))


@spec.implements(spec.cast)
def cast(x: Array, out: Out) -> None:
    """out = x in out's type, rounded to nearest even once."""
    usable("cast", x=x, out=out)
    launch_on_elements(FILE, "cast_kernel", x, out, types=(x, out))
