"""Calls of element-wise functions, pictures, norms, losses and updates; see `calls.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels import philox, spec
from ...kernels.spec import SGD, AdamW, BatchNorm, Dropout, LossScale, SoftmaxCrossEntropy
from .draw import Draw
from .shapes import Classes, Map

Arguments = dict[str, Any]


def _in_place(draw: Draw, arguments: Arguments, *inputs: str) -> Arguments:
    """In one case of three the output lies in the memory of one of `inputs`."""
    if draw.chance(1 / 3):
        arguments["out"] = arguments[draw.pick(*inputs)]
    return arguments


def relu(draw: Draw, g: Map) -> Arguments:
    """NaN, infinities and both zeros among the values."""
    return _in_place(draw, {"x": draw.rough(g.x), "out": draw.out(g.x)}, "x")


def relu_backward(draw: Draw, g: Map) -> Arguments:
    """The same values in both inputs."""
    made = {"dy": draw.rough(g.x), "y": draw.rough(g.x), "out": draw.out(g.x)}
    return _in_place(draw, made, "dy", "y")


def add(draw: Draw, g: Map) -> Arguments:
    """A sum, with or without ReLU; NaN, infinities and zeros among the values."""
    made = {"a": draw.rough(g.x), "b": draw.rough(g.x), "out": draw.out(g.x)}
    return {**_in_place(draw, made, "a", "b"), "relu": draw.chance(0.5)}


def mul(draw: Draw, g: Map) -> Arguments:
    """A product of such values."""
    made = {"a": draw.rough(g.x), "b": draw.rough(g.x), "out": draw.out(g.x)}
    return _in_place(draw, made, "a", "b")


def concat(draw: Draw, g: Map) -> Arguments:
    """One to four arrays side by side."""
    widths = [g.x[3], *(int(n) for n in draw.rng.integers(1, 9, int(draw.rng.integers(0, 4))))]
    xs = [draw.maybe_pitched(draw.rough((*g.x[:3], width))) for width in widths]
    return {"xs": xs, "out": draw.maybe_pitched(draw.out((*g.x[:3], sum(widths))))}


def channel_slice(draw: Draw, g: Map) -> Arguments:
    """Some of the channels."""
    width = int(draw.rng.integers(1, g.x[3] + 1))
    offset = int(draw.rng.integers(0, g.x[3] - width + 1))
    out = draw.maybe_pitched(draw.out((*g.x[:3], width)))
    return {"x": draw.maybe_pitched(draw.rough(g.x)), "out": out, "offset": offset}


def dropout(draw: Draw, g: Map) -> Arguments:
    """Any of several shares, under a random key."""
    words = (int(draw.rng.integers(0, 2**63)), *map(int, draw.rng.integers(0, 2**32, 2)))
    made = {"x": draw.maybe_nan(draw.normal(g.x)), "out": draw.out(g.x)}
    op = Dropout(draw.pick(0.0, 0.1, 0.5, 0.75))
    return {**_in_place(draw, made, "x"), "op": op, "key": philox.key(*words)}


def cast(draw: Draw, g: Map) -> Arguments:
    """To one of the other types."""
    others = [d for d in ("float32", "float16", "bfloat16") if d != draw.dtype]
    return {"x": draw.rough(g.x), "out": draw.out(g.x, draw.pick(*others))}


def normalise(draw: Draw, g: Map) -> Arguments:
    """Pictures that are shifted by up to two pixels, half of them mirrored, or none moved."""
    n, channels = g.x[0], g.x[3]
    moves = np.concatenate([draw.rng.integers(-2, 3, (n, 2)), draw.rng.integers(0, 2, (n, 1))], 1)
    return {
        "images": draw.rng.integers(0, 256, g.x).astype(np.uint8),
        "moves": moves.astype(np.int32) if draw.chance(0.8) else None,
        "mean": (255 * draw.rng.random(channels)).astype(draw.sums),
        "scale": (0.02 * draw.rng.random(channels)).astype(draw.sums),
        "out": draw.out(g.x),
    }


def softmax_cross_entropy(draw: Draw, g: Classes) -> Arguments:
    """Losses, with or without gradient and loss scaling."""
    return {
        "logits": draw.maybe_nan(draw.normal((g.n, g.k), draw.pick(0.1, 1.0, 10.0))),
        "labels": draw.rng.integers(0, g.k, g.n).astype(np.int32),
        "loss": draw.out((g.n,), draw.sums),
        "dlogits": draw.out((g.n, g.k)) if draw.chance(0.8) else None,
        "op": SoftmaxCrossEntropy(draw.pick(0.0, 0.1), draw.pick(1.0, 0.3)),
        "grad_scale": draw.wide_vector(draw.pick(2.0, 1024.0)) if draw.chance(0.4) else None,
    }


def _spread(draw: Draw, shape: tuple[int, ...]) -> np.ndarray:
    """Values whose variance is small in no channel: two that are nearly equal would be amplified"""
    sign = np.resize(np.array([1.0, -1.0], np.float32), shape[:-1])[..., None]
    offset = draw.rng.standard_normal(shape[-1], np.float32)
    noise = draw.rng.standard_normal(shape, np.float32)
    return (sign + 0.5 * noise + offset).astype(draw.normal((1,)).dtype)


def _vectors(draw: Draw, channels: int) -> Arguments:
    return {
        "gamma": draw.vector(channels),
        "beta": draw.vector(channels),
        "running_mean": draw.vector(channels),
        "running_var": (np.abs(draw.vector(channels)) + 0.1).astype(draw.sums),
    }


def batch_norm_training(draw: Draw, g: Map) -> Arguments | None:
    """By the batch's statistics; a channel needs two values."""
    if g.x[0] and math.prod(g.x[:3]) < 2:
        return None
    given = _vectors(draw, g.x[3])
    return {
        "x": draw.maybe_pitched(draw.maybe_nan(_spread(draw, g.x))), **given,
        "out": draw.maybe_pitched(draw.out(g.x)),
        "mean": draw.out(g.x[3:], draw.sums), "invstd": draw.out(g.x[3:], draw.sums),
        "op": BatchNorm(1e-5, draw.pick(0.0, 0.1, 1.0)), "relu": draw.chance(0.5),
    }  # fmt: skip


def batch_norm_inference(draw: Draw, g: Map) -> Arguments:
    """By running statistics."""
    x = draw.maybe_pitched(draw.maybe_nan(draw.normal(g.x)))
    out = draw.maybe_pitched(draw.out(g.x))
    given = {**_vectors(draw, g.x[3]), "out": out}
    return {"x": x, **given, "op": BatchNorm(1e-3), "relu": draw.chance(0.5)}


def batch_norm_backward(draw: Draw, g: Map) -> Arguments | None:
    """All gradients, with or without the ReLU behind."""
    if g.x[0] and math.prod(g.x[:3]) < 2:
        return None
    x, channels = _spread(draw, g.x), g.x[3:]
    wide = x.astype(np.float64)
    mean = wide.mean((0, 1, 2)) if g.x[0] else np.zeros(channels)
    variance = wide.var((0, 1, 2)) if g.x[0] else np.ones(channels)
    mask = draw.maybe_nan(np.maximum(draw.normal(g.x), 0)) if draw.chance(0.5) else None
    return {
        "x": draw.maybe_pitched(x), "dy": draw.maybe_pitched(draw.maybe_nan(draw.normal(g.x))),
        "gamma": draw.vector(g.x[3]), "mean": mean.astype(draw.sums),
        "invstd": (1 / np.sqrt(variance + 1e-5)).astype(draw.sums),
        "out": draw.maybe_pitched(draw.out(g.x)),
        "dgamma": draw.out(channels, draw.sums), "dbeta": draw.out(channels, draw.sums),
        "op": BatchNorm(),
        "mask": None if mask is None else draw.maybe_pitched(mask),
    }  # fmt: skip


def _response(draw: Draw) -> spec.LRN:
    return spec.LRN(draw.pick(1, 4, 5), draw.pick(1e-4, 0.1), draw.pick(0.5, 0.75, 1.0))


def lrn(draw: Draw, g: Map) -> Arguments:
    """Local response normalisation."""
    x, out = draw.maybe_nan(draw.normal(g.x, 2.0)), draw.out(g.x)
    return {"x": draw.maybe_pitched(x), "out": draw.maybe_pitched(out), "op": _response(draw)}


def lrn_backward(draw: Draw, g: Map) -> Arguments:
    """Its gradient."""
    given = {"dy": draw.maybe_pitched(draw.normal(g.x)), "out": draw.maybe_pitched(draw.out(g.x))}
    return {"x": draw.maybe_pitched(draw.normal(g.x, 2.0)), **given, "op": _response(draw)}


def _arena(draw: Draw, g: Map) -> Arguments:
    """An arena with the map's number of elements; float32, whatever the storage type."""
    count = math.prod(g.x)
    return {
        "w": draw.vector(count),
        "g": draw.maybe_nan(draw.vector(count)),
        "low": draw.out((count,), draw.pick("float16", "bfloat16")) if draw.chance(0.5) else None,
        "lr": draw.wide_vector(draw.pick(1e-3, 0.1)),
        "decay_until": int(draw.rng.integers(0, count + 1)),
        "grad_scale": draw.wide_vector(draw.pick(0.5, 1024.0)) if draw.chance(0.4) else None,
        "skip": np.array([draw.pick(0, 1)], np.int32) if draw.chance(0.4) else None,
    }


def non_finite(draw: Draw, g: Map) -> Arguments:
    """Gradients, half of the time with infinities and NaN among them, in several parts."""
    shape = (math.prod(g.x),)
    x = draw.rough(shape) if draw.chance(0.5) else draw.normal(shape)
    return {"x": x, "out": draw.out((draw.pick(1, 7, 256),), "int32")}


def loss_scale(draw: Draw, g: Map) -> Arguments:
    """A step with or without overflow, before a doubling or not."""
    flags = draw.rng.random(max(1, g.x[3])) < draw.pick(0.0, 0.3)
    return {
        "flags": flags.astype(np.int32),
        "scale": draw.wide_vector(draw.pick(1.0, 65536.0)),
        "good": np.array([draw.pick(0, 5, 1999)], np.int32),
        "out": draw.out((1,), draw.sums),
        "skip": draw.out((1,), "int32"),
        "op": LossScale(),
    }


def sgd_update(draw: Draw, g: Map) -> Arguments:
    """One SGD step."""
    op = SGD(0.9, draw.chance(0.5), draw.pick(0.0, 1e-2))
    made = _arena(draw, g)
    return {**made, "v": draw.vector(math.prod(g.x)), "op": op}


def adamw_update(draw: Draw, g: Map) -> Arguments:
    """One AdamW step from a state that an earlier step could have left."""
    made, count = _arena(draw, g), math.prod(g.x)
    moments = {"m": draw.vector(count), "v": np.square(draw.vector(count))}
    op = draw.pick(AdamW(), AdamW(beta1=0.0, beta2=0.0))  # of 0 the logarithm is none
    return {**made, **moments, "step": np.array([draw.pick(2, 10, 1000)]), "op": op}
