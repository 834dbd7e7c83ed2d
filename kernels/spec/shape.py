"""The contract of functions that move or repeat elements: transpose, pad, broadcast, and sums back.

Arrays have 1 to 6 dimensions and are C-contiguous. Each function is linear, and its transpose, the
gradient, is here too: transpose by the inverse order, pad by negated widths and the value 0,
broadcast and reduce_sum by each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import DTypeError, require
from .contract import (
    Array,
    Config,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    dtype_name,
    has_shape,
    same_float,
)

MOST_AXES = 6
Shape = tuple[int, ...]


def _has_axes(function: str, **arrays: Array) -> None:
    for name, array in arrays.items():
        shape = tuple(array.shape)
        rule = f"{name} must have 1 to {MOST_AXES} dimensions"
        require(1 <= len(shape) <= MOST_AXES, function, rule, **{name: shape})


@contract()
def transpose(x: Array, out: Out, *, axes: tuple[int, ...]) -> None:
    """out = x with its axes in another order: axis i of out is axis `axes[i]` of x.

    x and out of one float type. (0, 3, 1, 2) makes NCHW of NHWC, (0, 2, 3, 1) the reverse.

    Raises: ShapeError, DTypeError.
    """
    _has_axes("transpose", x=x)
    same_float("transpose", x=x, out=out)
    shape = tuple(x.shape)
    rule = "axes must name each axis of x once"
    ok = isinstance(axes, tuple) and sorted(axes) == list(range(len(shape)))
    require(ok, "transpose", rule, axes=axes, x=shape)
    has_shape("transpose", tuple(shape[axis] for axis in axes), out=out)
    contiguous("transpose", x=x, out=out)
    disjoint("transpose", out, x=x)


@dataclass(frozen=True)
class Pad:
    """Elements put before and after each axis, all of one value; negative counts cut off."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        counts = (self.before, self.after)
        ok = all(isinstance(c, tuple) and all(isinstance(n, int) for n in c) for c in counts)
        ok = ok and len(self.before) == len(self.after)
        rule = "before and after must be integers, one for each axis"
        require(ok, "pad", rule, before=self.before, after=self.after)

    def output_shape(self, x: Shape) -> Shape:
        """The shape of `pad` of an array of shape `x`. Raises: ShapeError."""
        told = {"before": self.before, "after": self.after, "x": tuple(x)}
        rule = f"needs counts for {len(x)} axes, not {len(self.before)}"
        require(len(self.before) == len(x), "pad", rule, **told)
        shape = tuple(b + n + a for b, n, a in zip(self.before, x, self.after, strict=True))
        require(min(shape, default=0) >= 0, "pad", "no axis may lose more than it has", **told)
        return shape

    @property
    def transposed(self) -> Pad:
        """The pad that is the gradient of this one."""
        return Pad(tuple(-n for n in self.before), tuple(-n for n in self.after))


@contract()
def pad(x: Array, out: Out, *, op: Pad) -> None:
    """out[i, j, …] = x[i - before[0], j - before[1], …] where x has such an element, else value.

    x and out of one float type, to which the value is rounded. Negative counts crop.

    Raises: ShapeError, DTypeError.
    """
    _has_axes("pad", x=x)
    same_float("pad", x=x, out=out)
    shape = op.output_shape(tuple(x.shape))
    rule = f"out must be {shape}, not {tuple(out.shape)}"
    require(tuple(out.shape) == shape, "pad", rule, x=tuple(x.shape), op=op)
    contiguous("pad", x=x, out=out)
    disjoint("pad", out, x=x)


def _stretched(function: str, small: tuple[str, Array], large: tuple[str, Array]) -> None:
    """Require one rank, and that each extent of `small` is 1 or that of `large`."""
    (name, a), (other, b) = small, large
    _has_axes(function, **{name: a, other: b})
    a_shape, b_shape = tuple(a.shape), tuple(b.shape)
    fits = len(a_shape) == len(b_shape) and all(
        m in (1, n) for m, n in zip(a_shape, b_shape, strict=True)
    )
    rule = f"{name} must have as many axes as {other}, each of extent 1 or that of {other}"
    require(fits, function, rule, **{name: a_shape, other: b_shape})
    dtype = same_float(function, **{other: b})
    if dtype_name(a) not in (dtype, accumulator(dtype)):
        both = " or ".join(dict.fromkeys((dtype, accumulator(dtype))))
        told = f"as {other} is {dtype}, {name} must be {both}, not {dtype_name(a)}"
        raise DTypeError(f"{function}: {told}")
    contiguous(function, x=a if name == "x" else b, out=b if name == "x" else a)
    disjoint(function, b if name == "x" else a, x=a if name == "x" else b)


@contract()
def broadcast(x: Array, out: Out) -> None:
    """out = x, repeated along the axes of which x has a single element.

    x and out of one rank; each extent of x is 1 or that of out. out of a float type; x of the same
    or, as a parameter has it, of the accumulator's (then each element is rounded once).

    Raises: ShapeError, DTypeError.
    """
    _stretched("broadcast", ("x", x), ("out", out))


@contract()
def reduce_sum(
    x: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """out = the sums of x over the axes of which out has a single element, in a fixed order.

    x and out of one rank; each extent of out is 1 or that of x. x of a float type; out of the same
    or of the accumulator's. Sums of no elements are 0.

    Raises: ShapeError, DTypeError.
    """
    _stretched("reduce_sum", ("out", out), ("x", x))


def merged(small: Shape, large: Shape) -> tuple[list[tuple[int, bool]], int]:
    """([(extent, kept), …], number of those kept): `large` in as few axes as tell it apart.

    An axis is kept where `small` has it, too; neighbours of one kind become one axis, and axes of
    one element vanish. How backends see `broadcast` (kept: not repeated) and `reduce_sum`.
    """
    axes: list[tuple[int, bool]] = []
    for m, n in zip(small, large, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == (m == n):
            axes[-1] = axes[-1][0] * n, m == n
        else:
            axes.append((n, m == n))
    return axes, sum(kept for _, kept in axes)


def joined(shape: Shape, axes: Shape) -> tuple[list[int], list[int]]:
    """(extents, order) of a transpose with axes that stay side by side as one, none of one element.

    How backends see `transpose`: the order has as few axes as tell it apart, at least one.
    """
    runs: list[list[int]] = []
    for axis in (a for a in axes if shape[a] != 1):
        follows = runs and all(n == 1 for n in shape[runs[-1][-1] + 1 : axis])
        if follows and runs[-1][-1] < axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    ranked = sorted(runs)
    extents = [math.prod(shape[a] for a in run) for run in ranked]
    return extents or [1], [ranked.index(run) for run in runs] or [0]
