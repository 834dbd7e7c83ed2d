"""ReLU and its gradient in C, float32; see `pointwise.py`."""

from __future__ import annotations

from .. import spec
from ..spec.contract import Array, Out, implements
from .pointwise import RELU_FORWARD, RELU_GRADIENT, choose, run, supports

__all__ = ["choose", "relu", "relu_backward", "supports"]


@implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """max(0, x), and a NaN stays."""
    run("relu", RELU_FORWARD, x, out)


@implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """dy where y is not <= 0, else 0."""
    run("relu_backward", RELU_GRADIENT, y, out, dy)
