"""Clip, leaky ReLU, PReLU and their gradients in C, float32; see `pointwise.py`."""

from __future__ import annotations

import numpy as np

from .. import spec
from ..spec import Clip, LeakyRelu
from ..spec.contract import Array, Out, implements
from .pointwise import CLIP, CLIP_GRADIENT, LEAK, LEAK_EACH, choose, run, supports

__all__ = [
    "choose", "clip", "clip_backward", "leaky_relu", "leaky_relu_backward", "prelu",
    "prelu_backward", "supports",
]  # fmt: skip


def _float32(number: float) -> float:
    with np.errstate(over="ignore"):  # past the largest number is infinite
        return float(np.float32(number))


def _bounds(op: Clip) -> tuple[float, float]:
    return _float32(op.low), _float32(op.high)


@implements(spec.clip)
def clip(x: Array, out: Out, *, op: Clip) -> None:
    """Two comparisons, which a NaN passes."""
    low, high = _bounds(op)
    run("clip", CLIP, x, out, low=low, high=high)


@implements(spec.clip_backward)
def clip_backward(dy: Array, x: Array, out: Out, *, op: Clip) -> None:
    """dy strictly between the bounds and where x is NaN, else 0."""
    low, high = _bounds(op)
    run("clip_backward", CLIP_GRADIENT, x, out, dy, low=low, high=high)


@implements(spec.leaky_relu)
def leaky_relu(x: Array, out: Out, *, op: LeakyRelu) -> None:
    """One slope for all elements."""
    run("leaky_relu", LEAK, x, out, slope=_float32(op.slope))


@implements(spec.leaky_relu_backward)
def leaky_relu_backward(dy: Array, x: Array, out: Out, *, op: LeakyRelu) -> None:
    """One slope for all elements."""
    run("leaky_relu_backward", LEAK, x, out, dy, slope=_float32(op.slope))


def _prelu(function: str, x: Array, slope: Array, out: Array, dy: Array | None = None) -> None:
    if slope.size == 1:
        run(function, LEAK, x, out, dy, slope=float(slope[0]))
    else:
        run(function, LEAK_EACH, x, out, dy, slopes=slope)


@implements(spec.prelu)
def prelu(x: Array, slope: Array, out: Out) -> None:
    """A slope for each channel, or one."""
    _prelu("prelu", x, slope, out)


@implements(spec.prelu_backward)
def prelu_backward(dy: Array, x: Array, slope: Array, out: Out) -> None:
    """As forward, on dy."""
    _prelu("prelu_backward", x, slope, out, dy)
