"""Calls of activations and of what moves, repeats or sums elements; see `calls.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels.spec import Clip, LeakyRelu, Pad
from .draw import Draw
from .reference import reference
from .shapes import Map

Arguments = dict[str, Any]
MANY = 1000  # pixels: their sum is split


def _in_place(draw: Draw, arguments: Arguments, *inputs: str) -> Arguments:
    """In one case of three the output lies in the memory of one of `inputs`."""
    if draw.chance(1 / 3):
        arguments["out"] = arguments[draw.pick(*inputs)]
    return arguments


def _spread(draw: Draw, g: Map) -> tuple[int, ...]:
    """The extents of the map as those of two, four or six axes."""
    n, h, w, c = g.x
    return draw.pick((n * h, w * c), g.x, (n, 1, h, w, 1, c))


def transpose(draw: Draw, g: Map) -> Arguments:
    """NHWC to NCHW, the reverse, or any order of any rank."""
    x = draw.rough(g.x if draw.chance(0.5) else _spread(draw, g))
    axes = tuple(int(axis) for axis in draw.rng.permutation(x.ndim))
    if x.ndim == 4 and draw.chance(0.5):
        axes = draw.pick((0, 3, 1, 2), (0, 2, 3, 1))
    return {"x": x, "out": draw.out([x.shape[axis] for axis in axes]), "axes": axes}


def pad(draw: Draw, g: Map) -> Arguments:
    """Up to two elements more or fewer at each end of each axis."""
    x = draw.rough(_spread(draw, g))
    before = tuple(int(draw.rng.integers(-min(n, 2), 3)) for n in x.shape)
    after = tuple(
        int(draw.rng.integers(max(-2, -n - b), 3)) for n, b in zip(x.shape, before, strict=True)
    )
    op = Pad(before, after, draw.pick(0.0, 0.5, -np.inf))
    return {"x": x, "out": draw.out(op.output_shape(x.shape)), "op": op}


def _one_or_all(draw: Draw, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if draw.chance(0.5) else n for n in shape)


def broadcast(draw: Draw, g: Map) -> Arguments:
    """Along any axes."""
    shape = _spread(draw, g)
    return {"x": draw.rough(_one_or_all(draw, shape)), "out": draw.out(shape)}


def reduce_sum(draw: Draw, g: Map) -> Arguments:
    """Over any axes, many pixels over all of them; into the same type or that of sums."""
    many = math.prod(g.x[:3]) > MANY
    shape = g.x if many else _spread(draw, g)
    kind = draw.sums if draw.chance(0.5) else None
    x = draw.maybe_nan(draw.normal(shape))
    left = (1, 1, 1, draw.pick(1, g.x[3])) if many else _one_or_all(draw, shape)
    return {"x": x, "out": draw.out(left, kind)}


def _bounds(draw: Draw) -> Clip:
    return draw.pick(Clip(0.0, 6.0), Clip(-0.5, 0.75), Clip(low=-0.25), Clip(high=0.5))


def clip(draw: Draw, g: Map) -> Arguments:
    """Between bounds that every type can hold."""
    made = {"x": draw.rough(g.x), "out": draw.out(g.x)}
    return {**_in_place(draw, made, "x"), "op": _bounds(draw)}


def clip_backward(draw: Draw, g: Map) -> Arguments:
    """Some values at a bound."""
    op = _bounds(draw)
    x = np.where(draw.rng.random(g.x) < 0.2, np.float32(op.low), draw.rough(g.x))
    made = {"dy": draw.rough(g.x), "x": x.astype(draw.normal((1,)).dtype), "out": draw.out(g.x)}
    return {**_in_place(draw, made, "dy", "x"), "op": op}


def leaky_relu(draw: Draw, g: Map) -> Arguments:
    """Any slope."""
    made = {"x": draw.rough(g.x), "out": draw.out(g.x)}
    return {**_in_place(draw, made, "x"), "op": LeakyRelu(draw.pick(0.01, 0.25, 1.5, -0.3))}


def leaky_relu_backward(draw: Draw, g: Map) -> Arguments:
    """The same on a gradient."""
    made = {"dy": draw.rough(g.x), "x": draw.rough(g.x), "out": draw.out(g.x)}
    return {**_in_place(draw, made, "dy", "x"), "op": LeakyRelu(draw.pick(0.01, 0.25, 1.5))}


def prelu(draw: Draw, g: Map) -> Arguments:
    """A slope for each channel, or one."""
    made = {"x": draw.rough(g.x), "slope": draw.vector(draw.pick(1, g.x[3])), "out": draw.out(g.x)}
    return _in_place(draw, made, "x")


def prelu_backward(draw: Draw, g: Map) -> Arguments:
    """The same on a gradient."""
    return {**prelu(draw, g), "dy": draw.rough(g.x), "out": draw.out(g.x)}


def softmax(draw: Draw, g: Map) -> Arguments:
    """Of vectors or of every pixel; softmax or its logarithm."""
    shape = draw.pick(g.x, (g.x[0] * g.x[1], g.x[2] * g.x[3]))
    x = draw.maybe_nan(draw.normal(shape, draw.pick(0.1, 1.0, 10.0)))
    return {"x": x, "out": draw.out(shape), "log": draw.chance(0.5)}


def softmax_backward(draw: Draw, g: Map) -> Arguments:
    """From an output that a forward pass made."""
    made = softmax(draw, g)
    y = reference("softmax", made)["out"].astype(made["x"].dtype)
    return {"dy": draw.normal(y.shape), "y": y, "out": draw.out(y.shape), "log": made["log"]}
