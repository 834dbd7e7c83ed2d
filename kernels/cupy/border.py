"""Zeros for the border of an array (see `kernels/spec/grid.py` and border.cu)."""

from __future__ import annotations

from typing import Any

import numpy

from ..spec.grid import grid
from .launch import Kernel, cdiv, launch, type_name

THREADS = 256  # of a block, as in border.cu


def zero_border(out: Any) -> None:
    """Write the zeros of the border of an NHWC array; nothing where it has none."""
    n, h, w, c = out.shape
    of = grid(out)
    count = n * c * (h * (of.line - w) + (of.lines - h) * of.line)
    launch(
        Kernel("border.cu", f"zero_border_kernel<{type_name(out)}>"),
        *(cdiv(count, THREADS), THREADS, out, numpy.int64(count), h, w, c, *of),
    )
