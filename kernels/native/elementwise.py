"""ReLU, its gradient and dropout in C, float32; see `pointwise.py`."""

from __future__ import annotations

from .. import spec
from ..spec import Dropout
from ..spec.contract import Array, Out, implements
from . import library
from .plan import address
from .pointwise import RELU_FORWARD, RELU_GRADIENT, choose, launch, run, supports

__all__ = ["choose", "dropout", "relu", "relu_backward", "supports"]


@implements(spec.relu)
def relu(x: Array, out: Out) -> None:
    """max(0, x), and a NaN stays."""
    run("relu", RELU_FORWARD, x, out)


@implements(spec.relu_backward)
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """dy where y is not <= 0, else 0."""
    run("relu_backward", RELU_GRADIENT, y, out, dy)


@implements(spec.dropout)
def dropout(x: Array, out: Out, *, op: Dropout, key: Array) -> None:
    """Philox's blocks side by side in vectors, from registers to out."""
    problem = library.Dropout(
        x=address(x), key=address(key), out=address(out), elements=out.size,
        threshold=op.threshold, share=1.0 - op.p,
    )  # fmt: skip
    launch("dropout", "dropout", problem, out)
