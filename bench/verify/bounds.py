"""How each output of a call is compared: equal, or within a row of the tolerance table.

The scale of a sum of n products is what it would be if their signs were independent: the root of n
times the RMS of the factors. Functions that only select, copy or convert must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels import spec

Arguments = Mapping[str, Any]
EXACT = {
    *("relu", "relu_backward", "clip", "clip_backward", "cast", "max_pool2d"),
    *("concat", "channel_slice", "transpose", "pad", "broadcast", "non_finite", "loss_scale"),
}


@dataclass(frozen=True)
class Bound:
    """Equal if `exact`; else sums of `reduction` terms, of at least the RMS `floor`.

    `kind` is the row of the tolerance table; None: that of the output's type or the precision.
    """

    reduction: int = 1
    floor: float = 0.0
    kind: str | None = None
    exact: bool = False


def rms(*arrays: np.ndarray | None) -> float:
    """Root mean square of the finite values of all arrays together (None counts as nothing)."""
    wide = (np.asarray(a, np.float64) for a in arrays if a is not None)
    given = [a[np.isfinite(a)] for a in wide]
    count = sum(a.size for a in given)
    return math.sqrt(sum(float(np.square(a).sum()) for a in given) / count) if count else 0.0


def _products(terms: int, *factors: np.ndarray, plus: tuple[np.ndarray | None, ...] = ()) -> float:
    """The RMS of a sum of `terms` products with independent signs, plus some addends."""
    return math.hypot(math.sqrt(terms) * math.prod(map(rms, factors)), *map(rms, plus))


def _forward(a: Arguments) -> dict[str, Bound]:
    terms = math.prod(a["w"].shape[1:])
    addends = (a.get("b"), a.get("residual"))
    return {"out": Bound(terms, _products(terms, a["x"], a["w"], plus=addends))}


def _pooled(a: Arguments) -> dict[str, Bound]:
    return {**_forward(a), "code": Bound(exact=True)}


def _input_gradient(terms: int, a: Arguments) -> dict[str, Bound]:
    floor = _products(terms, a["dy"], a["w"])
    rows = a["out"][..., 0].size
    # a bias gradient may sum dx before or after dx is rounded: its row is that of dx
    db = Bound(max(terms, rows), floor * math.sqrt(rows), str(a["dy"].dtype))
    return {"out": Bound(terms, floor), "db": db}


def _conv2d_dgrad(a: Arguments) -> dict[str, Bound]:
    k, r, s, _ = a["w"].shape
    return _input_gradient(k // a["op"].groups * r * s, a)


def _filter_gradient(a: Arguments) -> dict[str, Bound]:
    terms = a["dy"][..., 0].size
    return {"out": Bound(terms, _products(terms, a["x"], a["dy"]))}


def _sum_of(a: Arguments, name: str) -> dict[str, Bound]:
    """The sum of dy over all axes but the last, as output `name`; `out` beside it is a copy."""
    terms = a["dy"][..., 0].size
    bounds = {"out": Bound(exact=True)} if name != "out" else {}
    return {**bounds, name: Bound(terms, rms(a["dy"]) * math.sqrt(terms))}


def _max_backward(a: Arguments) -> dict[str, Bound]:
    return {"out": Bound(math.prod(a["op"].kernel), rms(a["dy"]))}


def _average(a: Arguments) -> dict[str, Bound]:
    taps = math.prod(a["op"].kernel)
    return {"out": Bound(taps, rms(a["x"]) / math.sqrt(taps))}


def _average_backward(a: Arguments) -> dict[str, Bound]:
    taps = math.prod(a["op"].kernel)
    return {"out": Bound(taps, rms(a["dy"]) / taps)}


def _global_average(a: Arguments) -> dict[str, Bound]:
    pixels = a["x"].shape[1] * a["x"].shape[2]
    return {"out": Bound(pixels, rms(a["x"]) / math.sqrt(pixels))}


def _batch_norm(a: Arguments) -> dict[str, Bound]:
    count = a["x"][..., 0].size
    vectors = (Bound(count), Bound(count), Bound(count))
    names = ("invstd", "running_mean", "running_var")
    return {
        "out": Bound(count, rms(a["gamma"]) + rms(a["beta"])),
        "mean": Bound(count, rms(a["x"]) / max(1.0, math.sqrt(count))),
        **dict(zip(names, vectors, strict=True)),
    }


def _batch_norm_backward(a: Arguments) -> dict[str, Bound]:
    count = a["x"][..., 0].size
    total = Bound(count, rms(a["dy"]) * math.sqrt(count))
    scale = rms(np.asarray(a["gamma"]) * a["invstd"]) * rms(a["dy"])
    return {"out": Bound(count, scale), "dgamma": total, "dbeta": total}


def _lrn_backward(a: Arguments) -> dict[str, Bound]:
    op, x = a["op"], np.square(a["x"], dtype=np.float64)
    pad = [(0, 0)] * 3 + [(op.size // 2, (op.size - 1) // 2)]
    sums = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), op.size, 3).sum(-1)
    divisor = (op.k + op.alpha / op.size * sums) ** op.beta
    return {"out": Bound(op.size, rms(np.asarray(a["dy"], np.float64) / divisor))}


def _loss(a: Arguments) -> dict[str, Bound]:
    n, k = a["logits"].shape
    given = a.get("grad_scale")
    scale = a["op"].weight * (1.0 if given is None else float(given[0]))
    # a sure prediction leaves the difference of two numbers near 1, or of two near a logit
    return {
        "loss": Bound(k, rms(a["logits"]) + math.log(k)),
        "dlogits": Bound(k, scale / max(n, 1) / math.sqrt(k)),
    }


def _sums(a: Arguments) -> dict[str, Bound]:
    terms = max(1, a["x"].size // max(1, a["out"].size))
    return {"out": Bound(terms, rms(a["x"]) * math.sqrt(terms))}


def _leak(a: Arguments) -> dict[str, Bound]:
    return {"out": Bound(floor=max(rms(a.get(name)) for name in ("dy", "x", "slope")))}


def _softmax(a: Arguments) -> dict[str, Bound]:
    k = a["x"].shape[-1]
    # the logarithm of a sure class is the difference of two numbers near a logit
    return {"out": Bound(k, rms(a["x"]) + math.log(k) if a["log"] else 1 / math.sqrt(k))}


def _softmax_backward(a: Arguments) -> dict[str, Bound]:
    k = a["y"].shape[-1]
    shares = np.exp(np.asarray(a["y"], np.float64)) if a["log"] else a["y"]
    size = _products(k, a["dy"], shares)
    return {"out": Bound(k, math.hypot(rms(a["dy"]), size) if a["log"] else size)}


def _update(a: Arguments) -> dict[str, Bound]:
    return {name: Bound(floor=rms(a["w"])) for name in ("w", "low")}


RULES: dict[str, Callable[[Arguments], dict[str, Bound]]] = {
    "conv2d": _forward,
    "conv2d_dgrad": _conv2d_dgrad,
    "conv2d_wgrad": _filter_gradient,
    "conv2d_relu_pool": _pooled,
    "conv2d_relu_pool_backward": lambda a: _sum_of(a, "db"),
    "dense": _forward,
    "dense_dgrad": lambda a: _input_gradient(a["w"].shape[0], a),
    "dense_wgrad": _filter_gradient,
    "bias_grad": lambda a: _sum_of(a, "out"),
    "add": lambda a: {"out": Bound(floor=rms(a["a"], a["b"]))},
    "mul": lambda a: {"out": Bound(floor=rms(a["a"]) * rms(a["b"]))},
    "reduce_sum": _sums,
    **dict.fromkeys(("leaky_relu", "leaky_relu_backward", "prelu", "prelu_backward"), _leak),
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "dropout": lambda a: {"out": Bound(floor=rms(a["x"]) / (1 - a["op"].p))},
    "max_pool2d_backward": _max_backward,
    "avg_pool2d": _average,
    "avg_pool2d_backward": _average_backward,
    "global_avg_pool2d": _global_average,
    "global_avg_pool2d_backward": lambda a: {"out": Bound(floor=0.0)},
    "batch_norm_training": _batch_norm,
    "batch_norm_inference": lambda a: {"out": Bound(floor=rms(a["gamma"]) + rms(a["beta"]))},
    "batch_norm_backward": _batch_norm_backward,
    "lrn": lambda a: {"out": Bound(a["op"].size)},
    "lrn_backward": _lrn_backward,
    "normalise": lambda a: {"out": Bound(floor=rms(np.multiply(a["mean"], a["scale"])))},
    "softmax_cross_entropy": _loss,
    "sgd_update": _update,
    "adamw_update": _update,
}


def bounds(function: str, arguments: Arguments) -> dict[str, Bound]:
    """Output → how it is compared, for the outputs that the call asks for.

    Raises: KeyError for a function without a rule.
    """
    rules: dict[str, Bound]
    if function in EXACT:
        names = ("out", "code", "scale", "good", "skip")
        rules = dict.fromkeys(names, Bound(exact=True))
    else:
        rules = RULES[function](arguments)
    kinds = spec.directions(function)
    wanted = [n for n, kind in kinds.items() if kind in ("out", "inout")]
    return {n: rules.get(n, Bound()) for n in wanted if arguments.get(n) is not None}


def row(function: str, arguments: Arguments, name: str, bound: Bound) -> str:
    """The row of the tolerance table by which the output `name` is judged."""
    kind = bound.kind or spec.dtype_name(arguments[name])
    precision = getattr(arguments.get("op"), "precision", "ieee")
    inputs = {str(v.dtype) for n, v in arguments.items() if n in ("x", "dy") and v is not None}
    return precision if precision != "ieee" and "float32" in inputs else kind
