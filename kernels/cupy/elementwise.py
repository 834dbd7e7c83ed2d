"""Element-wise functions: one sweep through memory, 16 bytes a thread (elementwise.cu)."""

from __future__ import annotations

from typing import Any

import numpy

from .. import spec
from ..spec.contract import Array, Out
from .launch import Kernel, cdiv, launch, type_name, usable, vector_width

THREADS = 256  # of a block, as in elementwise.cu


def _sweep(name: str, out: Any, *arrays: Any) -> None:
    """Launch `name`<type, width> on flat arrays of one size and type, the last of them written."""
    width = vector_width(*arrays, out)
    kernel = Kernel("elementwise.cu", f"{name}<{type_name(out)}, {width}>")
    blocks = cdiv(out.size, width * THREADS)
    launch(kernel, blocks, THREADS, *arrays, out, numpy.int64(out.size))


@spec.implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """out = max(0, x); a NaN stays."""
    usable("relu", x=x, out=out)
    _sweep("relu_kernel", out, x)


@spec.implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """out = 0 where y <= 0, else dy."""
    usable("relu_backward", dy=dy, y=y, out=out)
    _sweep("relu_backward_kernel", out, dy, y)
