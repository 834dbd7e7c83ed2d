"""Calls of convolutions, pools and dense layers; see `calls.py`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ...kernels import spec
from ...kernels.spec import MaxPool2d
from .draw import Draw, Lie
from .reference import reference
from .shapes import Aim, Conv, Dense, Map, Pool

Arguments = dict[str, Any]
HALVING = MaxPool2d((2, 2), (2, 2))


def _conv(draw: Draw, g: Conv) -> tuple[Any, tuple[int, ...], float, Lie, Lie]:
    """The parameters in this precision, the output's shape, and a scale that keeps sums near 1.

    Last, how the images of this call lie in memory: those that are read, and those beside them.
    """
    draw.everything = g.aim != Aim()
    op = replace(g.op, precision=draw.precision)
    scale = 1 / math.sqrt(math.prod(g.w[1:]))
    return op, op.output_shape(g.x, g.w), scale, *draw.layout(op, g.aim.border)


def _pixels(draw: Draw, g: Conv) -> np.ndarray:
    """An image; where a filter sees one pixel, perhaps with a NaN.

    Fast algorithms for larger filters may spread a NaN over neighbouring results.
    """
    return draw.maybe_nan(draw.normal(g.x)) if g.w[1:3] == (1, 1) else draw.normal(g.x)


def conv2d(draw: Draw, g: Conv) -> Arguments:
    """Forward, with or without bias, residual and ReLU; some NaN, which must survive it."""
    op, y, scale, lie, beside = _conv(draw, g)
    return {
        "x": lie(_pixels(draw, g)),
        "w": draw.normal(g.w, scale),
        "b": draw.maybe_nan(draw.vector(g.w[0])) if draw.option(0.7) else None,
        "out": beside(draw.out(y)),
        "op": op,
        "relu": draw.option(0.5),
        "residual": beside(draw.maybe_nan(draw.normal(y))) if draw.option(0.3) else None,
    }


def conv2d_dgrad(draw: Draw, g: Conv) -> Arguments:
    """Gradient of the input, with or without the ReLU below and its bias gradient."""
    op, y, scale, lie, beside = _conv(draw, g)
    masked = draw.option(0.5)
    return {
        "dy": lie(draw.normal(y)),
        "w": draw.normal(g.w, scale),
        "out": beside(draw.out(g.x)),
        "op": op,
        "mask": beside(draw.maybe_nan(np.maximum(draw.normal(g.x), 0))) if masked else None,
        "db": draw.out(g.x[3:], draw.sums) if draw.option(0.5) else None,
    }


def conv2d_wgrad(draw: Draw, g: Conv) -> Arguments:
    """Gradient of the filters."""
    op, y, _, lie, _ = _conv(draw, g)
    x, dy = lie(draw.normal(g.x)), lie(draw.normal(y))
    return {"x": x, "dy": dy, "out": draw.out(g.w, draw.sums), "op": op}


def conv2d_relu_pool(draw: Draw, g: Conv) -> Arguments | None:
    """The fused block, half of the time on whole numbers: exact sums, many ties."""
    op, y, scale, lie, beside = _conv(draw, g)
    if min(y[1:3]) < 2:
        return None
    pooled, whole = HALVING.output_shape(y), draw.chance(0.5)
    x = draw.whole(g.x) if whole else draw.normal(g.x)
    if g.w[1:3] == (1, 1) and draw.chance(0.7):  # see `_pixels`; here some of a window's four
        x[draw.rng.random(g.x[:3]) < 0.1] = np.nan
    return {
        "x": lie(x),
        "w": draw.whole(g.w) if whole else draw.normal(g.w, scale),
        "b": None if whole else draw.maybe_nan(draw.vector(g.w[0])),
        "out": beside(draw.out(pooled)),
        "code": draw.out(pooled, "int8") if whole or draw.option(0.7) else None,
        "op": op,
        "pool": HALVING,
    }


def conv2d_relu_pool_backward(draw: Draw, g: Conv) -> Arguments | None:
    """The way back through the pool and the ReLU by the codes."""
    _, y, _, lie, beside = _conv(draw, g)
    if min(y[1:3]) < 2:
        return None
    pooled = HALVING.output_shape(y)
    return {
        "dy": lie(draw.maybe_nan(draw.normal(pooled))),
        "code": draw.rng.integers(0, spec.DEAD + 1, pooled).astype(np.int8),
        "out": beside(draw.out(y)),
        "pool": HALVING,
        "db": draw.out(y[3:], draw.sums) if draw.option(0.5) else None,
    }


def max_pool2d(draw: Draw, g: Pool) -> Arguments:
    """Maxima, half of the time of whole numbers, which tie; some NaN."""
    x = draw.whole(g.x) if draw.chance(0.5) else draw.normal(g.x)
    if draw.chance(0.3):
        x[draw.rng.random(g.x) < 0.05] = np.nan
    y = g.op.output_shape(g.x)
    code = draw.out(y, "int8") if draw.chance(0.8) else None
    x, out = draw.maybe_pitched(x), draw.maybe_pitched(draw.out(y))
    return {"x": x, "out": out, "code": code, "op": g.op}


def max_pool2d_backward(draw: Draw, g: Pool) -> Arguments:
    """The way back by codes that a forward pass made."""
    x, y = draw.normal(g.x), g.op.output_shape(g.x)
    made = {"x": x, "out": draw.out(y), "code": draw.out(y, "int8"), "op": g.op}
    code = reference("max_pool2d", made)["code"]
    dy = draw.maybe_pitched(draw.maybe_nan(draw.normal(y)))
    out = draw.maybe_pitched(draw.out(g.x))
    return {"dy": dy, "code": code, "out": out, "op": g.op}


def avg_pool2d(draw: Draw, g: Pool) -> Arguments:
    """Means of the same windows."""
    op = g.average
    x, out = draw.maybe_nan(draw.normal(g.x)), draw.out(op.output_shape(g.x))
    return {"x": draw.maybe_pitched(x), "out": draw.maybe_pitched(out), "op": op}


def avg_pool2d_backward(draw: Draw, g: Pool) -> Arguments:
    """Their gradient."""
    op = g.average
    dy, out = draw.maybe_nan(draw.normal(op.output_shape(g.x))), draw.out(g.x)
    return {"dy": draw.maybe_pitched(dy), "out": draw.maybe_pitched(out), "op": op}


def global_avg_pool2d(draw: Draw, g: Map) -> Arguments:
    """The mean of every image's channels."""
    x = draw.maybe_pitched(draw.maybe_nan(draw.normal(g.x)))
    return {"x": x, "out": draw.out((g.x[0], g.x[3]))}


def global_avg_pool2d_backward(draw: Draw, g: Map) -> Arguments:
    """Its gradient."""
    dy = draw.maybe_nan(draw.normal((g.x[0], g.x[3])))
    return {"dy": dy, "out": draw.maybe_pitched(draw.out(g.x))}


def dense(draw: Draw, g: Dense) -> Arguments:
    """Forward, with or without bias and ReLU; some NaN, which must survive it."""
    draw.everything = g.aim != Aim()
    return {
        "x": draw.maybe_nan(draw.normal((g.n, g.c))),
        "w": draw.normal((g.k, g.c), 1 / math.sqrt(g.c)),
        "b": draw.maybe_nan(draw.vector(g.k)) if draw.option(0.7) else None,
        "out": draw.out((g.n, g.k)),
        "relu": draw.option(0.5),
    }


def dense_dgrad(draw: Draw, g: Dense) -> Arguments:
    """Gradient of the input, with or without the ReLU below and its bias gradient."""
    draw.everything = g.aim != Aim()
    mask = draw.maybe_nan(np.maximum(draw.normal((g.n, g.c)), 0))
    return {
        "dy": draw.normal((g.n, g.k)),
        "w": draw.normal((g.k, g.c), 1 / math.sqrt(g.k)),
        "out": draw.out((g.n, g.c)),
        "mask": mask if draw.option(0.5) else None,
        "db": draw.out((g.c,), draw.sums) if draw.option(0.5) else None,
    }


def dense_wgrad(draw: Draw, g: Dense) -> Arguments:
    """Gradient of the weights."""
    x, dy = draw.normal((g.n, g.c)), draw.normal((g.n, g.k))
    return {"x": x, "dy": dy, "out": draw.out((g.k, g.c), draw.sums)}


def bias_grad(draw: Draw, g: Map) -> Arguments:
    """Column sums of a batch of maps, or of vectors."""
    shape = g.x if g.aim != Aim() or draw.chance(0.7) else (g.x[0], g.x[3])
    return {"dy": draw.maybe_nan(draw.normal(shape)), "out": draw.out(shape[-1:], draw.sums)}
