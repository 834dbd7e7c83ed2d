"""Pools in C, float32: every pixel of the output asks the pixels of its windows, in registers.

Whom it asks stands in lists, one for each output row and one for each column, made here from the
parameters: a pool and its gradient differ by their lists alone, and so do average and global
average pools. No pixel is written twice, so bits do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import spec
from ..arrays import pixel_pitch
from ..errors import require_support
from ..numpy.threads import get_threads, parallel
from ..spec import AvgPool2d, Config, MaxPool2d
from ..spec.contract import Array, Out, dtype_name, implements
from . import library
from .plan import MOST_ELEMENTS, Shape, address

VALUES_PER_WORKER = 1 << 18  # some 40 us of work; to wake another thread takes nearly as long
FLOAT32 = np.dtype(np.float32)
MAXIMUM, MAXIMUM_GRADIENT, AVERAGE = range(3)  # kinds of pool.c
ASK = np.dtype([("at", np.int32), ("tap", np.int32), ("share", np.float32)])  # `struct ask`


class _Plan(NamedTuple):
    problem: library.Pool
    kept: tuple[np.ndarray, ...]  # what it points at
    workers: int
    run: Any  # pool_run of the chosen instruction set
    variant: str


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments cannot run here; None if it can."""
    for name in ("x", "dy", "out"):
        if (array := arguments.get(name)) is None:
            continue
        if array.dtype != "float32":
            return f"computes in float32 only, {name} is {dtype_name(array)}"
        if math.prod(array.shape) >= MOST_ELEMENTS:
            return f"takes arrays of fewer than {MOST_ELEMENTS} elements, {name} has more"
    return None


def choose(function: str, arguments: Mapping[str, Any], variant: str | None = None) -> Config:
    """The plan for one call as a Config; `variant` forces an instruction set.

    Raises: UnsupportedError.
    """
    require_support(function, "native", supports(function, arguments))
    source, out = arguments["dy" if "dy" in arguments else "x"], arguments["out"]
    made = _made(function, source, out, arguments.get("op"), variant)
    reason = f"float32, in vectors ({made.variant}), chunks: {made.problem.chunks}"
    return Config(f"windows-{made.variant}", (("workers", made.workers),), 0, reason)


def _made(function: str, source: Any, out: Any, op: Any, variant: str | None = None) -> _Plan:
    """The plan of a call that fills `out` from `source` (x or dy)."""
    shape = tuple(source.shape)
    variant = variant or library.filled(shape[-1])
    return _plan(function, shape, tuple(out.shape), op, variant, get_threads())


@functools.lru_cache(maxsize=512)
def _plan(function: str, x: Shape, out: Shape, op: Any, variant: str, workers: int) -> _Plan:
    backward = function.endswith("_backward")
    image, pooled = (out, x) if backward else (x, out)
    if op is None:  # global: [N, C] is one window an image; a gradient may have no pixels
        op = AvgPool2d((max(1, image[1]), max(1, image[2])), (1, 1))
        pooled = (pooled[0], 1, 1, pooled[1])
    shapes = (pooled, image) if backward else (image, pooled)
    (first_h, rows), (first_w, cols) = (
        _lists(op, axis, image[1 + axis], pooled[1 + axis], backward) for axis in (0, 1)
    )
    rows["tap"] *= op.kernel[1]
    kind = AVERAGE
    if isinstance(op, MaxPool2d):
        kind = MAXIMUM_GRADIENT if backward else MAXIMUM
    (n, x_rows, x_cols, c), (_, p, q, _) = shapes
    problem = library.Pool(
        images=n, x_rows=x_rows, x_cols=x_cols, rows=p, cols=q, channels=c, kind=kind,
        row_asks=address(rows), col_asks=address(cols),
        row_first=address(first_h), col_first=address(first_w),
    )  # fmt: skip
    compiled = library.open_library(variant)
    compiled.pool_plan(ctypes.byref(problem))
    asked = n * len(rows) * len(cols) * c
    workers = max(1, min(workers, problem.chunks, asked // VALUES_PER_WORKER))
    return _Plan(problem, (rows, cols, first_h, first_w), workers, compiled.pool_run, variant)


def _lists(
    op: MaxPool2d | AvgPool2d, axis: int, size: int, count: int, backward: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis: where each output's list begins [outputs + 1], and all lists, in tap order.

    Window o has `size` pixels to choose from and reads pixel o * stride + tap * dilation - padding.
    Forward the outputs are the `count` windows; backward the pixels, which ask windows.
    """
    before, after = op.padding[2 * axis : 2 * axis + 2]
    dilation = op.dilation[axis] if isinstance(op, MaxPool2d) else 1
    windows = np.arange(count)
    starts = windows * op.stride[axis] - before
    pixels = starts[:, None] + np.arange(op.kernel[axis]) * dilation
    o, tap = np.nonzero((pixels >= 0) & (pixels < size))
    pixel = pixels[o, tap]
    ends = starts + op.kernel[axis]
    if isinstance(op, AvgPool2d) and not op.count_include_pad:
        counted = np.minimum(ends, size) - np.maximum(starts, 0)
    else:
        counted = np.minimum(ends, size + after) - starts
    asks = np.empty(len(o), ASK)
    if backward:
        order = np.lexsort((tap, pixel))
        o, tap, pixel = o[order], tap[order], pixel[order]
    asks["at"], asks["tap"], asks["share"] = o if backward else pixel, tap, 1.0 / counted[o]
    outputs, asking = (size, pixel) if backward else (count, o)
    first = np.zeros(outputs + 1, np.int64)
    np.cumsum(np.bincount(asking, minlength=outputs), out=first[1:])
    return first, asks


def _run(
    function: str, source: Array, out: Array, op: MaxPool2d | AvgPool2d | None,
    code: Array | None = None,
) -> None:  # fmt: skip
    """Fill `out` from `source`, both [N,H,W,C] or [N,C]; `code` is written or read."""
    if not source.dtype == out.dtype == FLOAT32 or source.size + out.size >= MOST_ELEMENTS:
        given = "dy" if function.endswith("_backward") else "x"
        require_support(function, "native", supports(function, {given: source, "out": out}))
    made = _made(function, source, out, op)
    problem, tickets = library.Pool.from_buffer_copy(made.problem), (ctypes.c_int64 * 3)()
    problem.x, problem.out, problem.code = address(source), address(out), address(code)
    problem.x_pitch, problem.out_pitch = _pitch(source), _pitch(out)
    arguments = ctypes.addressof(problem), ctypes.addressof(tickets), None
    if made.workers == 1:
        made.run(*arguments)
    else:
        parallel(made.workers, lambda worker, _: made.run(*arguments))


def _pitch(array: Array) -> int:
    whole = array.ndim == 2 or array.flags.c_contiguous
    return array.shape[-1] if whole else pixel_pitch(array)


@implements(spec.max_pool2d)
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """The first maximum and its code stay in registers until the window ends."""
    _run("max_pool2d", x, out, op, code)


@implements(spec.max_pool2d_backward)
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """Each pixel adds dy of the windows whose code names it, in tap order."""
    _run("max_pool2d_backward", dy, out, op, code)


@implements(spec.avg_pool2d)
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """Each value counts 1 / rows of its window, and 1 / columns."""
    _run("avg_pool2d", x, out, op)


@implements(spec.avg_pool2d_backward)
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """Each pixel adds its share of dy of the windows that it lies in."""
    _run("avg_pool2d_backward", dy, out, op)


@implements(spec.global_avg_pool2d)
def global_avg_pool2d(x: Array, out: Out) -> None:
    """An average pool with one window."""
    _run("global_avg_pool2d", x, out, None)


@implements(spec.global_avg_pool2d_backward)
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """The gradient of an average pool with one window."""
    _run("global_avg_pool2d_backward", dy, out, None)
