"""The contract of activations besides ReLU: clip, leaky ReLU, PReLU, softmax, and gradients.

All but softmax work element by element, so their output may be one of their inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import require
from .contract import (
    Array,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_shape,
    same_float,
)


def _alike(function: str, **arrays: Array) -> str:
    """Require one shape and float type of contiguous arrays, and return the type's name."""
    dtype = same_float(function, **arrays)
    (_, first), *others = arrays.items()
    for name, array in others:
        has_shape(function, tuple(first.shape), **{name: array})
    contiguous(function, **arrays)
    return dtype


@dataclass(frozen=True)
class Clip:
    """The bounds of clip, either of which may be infinite; they count as rounded to x's type."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        """Check the bounds. Raises: ShapeError."""
        ok = not (math.isnan(self.low) or math.isnan(self.high))
        require(ok, "clip", "bounds must not be NaN", low=self.low, high=self.high)


@contract()
def clip(x: Array, out: Out, *, op: Clip) -> None:
    """out = min(max(x, low), high), NaN stays NaN; where low > high, that is high.

    x and out of one shape and float type; out may be x.

    Raises: ShapeError, DTypeError.
    """
    _alike("clip", x=x, out=out)


@contract()
def clip_backward(dy: Array, x: Array, out: Out, *, op: Clip) -> None:
    """out = 0 where x <= low or x >= high, else dy (also where x is NaN).

    At a bound the gradient is 0, as that of ReLU at 0 and of PyTorch's hardtanh and ReLU6 (its
    clamp lets dy pass there). dy, x and out of one shape and float type; out may be dy or x.

    Raises: ShapeError, DTypeError.
    """
    _alike("clip_backward", dy=dy, x=x, out=out)


@dataclass(frozen=True)
class LeakyRelu:
    """`slope`: what values up to 0 are multiplied by."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        """Check the slope. Raises: ShapeError."""
        ok = math.isfinite(self.slope)
        require(ok, "leaky_relu", "slope must be a finite number", slope=self.slope)


@contract()
def leaky_relu(x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * x where x <= 0, else x (NaN stays).

    x and out of one shape and float type; out may be x. Maas et al. 2013.

    Raises: ShapeError, DTypeError.
    """
    _alike("leaky_relu", x=x, out=out)


@contract()
def leaky_relu_backward(dy: Array, x: Array, out: Out, *, op: LeakyRelu) -> None:
    """out = slope * dy where x <= 0, else dy (also where x is NaN).

    dy, x (the input of leaky_relu) and out of one shape and float type; out may be dy or x.

    Raises: ShapeError, DTypeError.
    """
    _alike("leaky_relu_backward", dy=dy, x=x, out=out)


def _slopes(function: str, x: Array, slope: Array, out: Array, dtype: str) -> None:
    shape, channels = tuple(slope.shape), tuple(x.shape[-1:])
    rule = f"slope must be (1,) or, one for each channel of x, {channels}"
    ok = len(x.shape) >= 1 and shape in ((1,), channels)
    require(ok, function, rule, slope=shape, x=tuple(x.shape))
    has_dtype(function, accumulator(dtype), slope=slope)
    contiguous(function, slope=slope)
    disjoint(function, out, slope=slope)


@contract()
def prelu(x: Array, slope: Array, out: Out) -> None:
    """out = slope * x where x <= 0, else x (NaN stays); slope [C] for the last axis of x, or [1].

    x and out of one shape and float type, out may be x; slope of the accumulator's type. He et
    al. 2015. The gradient of slope is the sum of dy * min(x, 0): clip, mul and reduce_sum.

    Raises: ShapeError, DTypeError.
    """
    _slopes("prelu", x, slope, out, _alike("prelu", x=x, out=out))


@contract()
def prelu_backward(dy: Array, x: Array, slope: Array, out: Out) -> None:
    """out = slope * dy where x <= 0, else dy (also where x is NaN): the gradient of x.

    dy, x (the input of prelu) and out of one shape and float type, out may be dy or x; slope as in
    `prelu`.

    Raises: ShapeError, DTypeError.
    """
    _slopes("prelu_backward", x, slope, out, _alike("prelu_backward", dy=dy, x=x, out=out))


def _classes(function: str, **array: Array) -> None:
    ((name, shape),) = ((name, tuple(a.shape)) for name, a in array.items())
    ok = len(shape) >= 1 and shape[-1] >= 1
    require(ok, function, "needs at least one class", **{name: shape})


@contract()
def softmax(x: Array, out: Out, *, log: bool = False) -> None:
    """out = exp(z) / sum of exp(z) over the last axis; `log`: its logarithm, z - log sum exp(z).

    z = x - max x, which keeps exp(z) in [0, 1]. x and out of one shape and float type. A NaN or an
    infinity that is the maximum makes its whole row NaN.

    Raises: ShapeError, DTypeError.
    """
    _alike("softmax", x=x, out=out)
    _classes("softmax", x=x)
    disjoint("softmax", out, x=x)


@contract()
def softmax_backward(dy: Array, y: Array, out: Out, *, log: bool = False) -> None:
    """The gradient of x from y, the output of softmax: out = y * (dy - sum of dy * y).

    With `log`, of whose output y then is: out = dy - exp(y) * sum of dy. Sums are over the last
    axis, in a fixed order. dy, y and out of one shape and float type.

    Raises: ShapeError, DTypeError.
    """
    _alike("softmax_backward", dy=dy, y=y, out=out)
    _classes("softmax_backward", dy=dy)
    disjoint("softmax_backward", out, dy=dy, y=y)
