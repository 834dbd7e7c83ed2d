"""The contract of element-wise functions: ReLU, sums, products, concat, dropout, cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DTypeError, require
from .contract import (
    FLOATS,
    Array,
    Out,
    contiguous,
    contract,
    disjoint,
    dtype_name,
    has_dtype,
    has_rank,
    has_shape,
    pitched,
    same_float,
)


@contract()
def relu(x: Array, out: Out) -> None:
    """out = max(0, x), NaN stays NaN. x and out of one shape and float type; out may be x.

    Raises: ShapeError, DTypeError.
    """
    same_float("relu", x=x, out=out)
    has_shape("relu", tuple(x.shape), out=out)
    contiguous("relu", x=x, out=out)


@contract()
def relu_backward(dy: Array, y: Array, out: Out) -> None:
    """out = 0 where y <= 0, else dy (also where y is NaN); y is the ReLU's output.

    dy, y and out of one shape and float type; out may be dy or y.

    Raises: ShapeError, DTypeError.
    """
    same_float("relu_backward", dy=dy, y=y, out=out)
    has_shape("relu_backward", tuple(dy.shape), y=y, out=out)
    contiguous("relu_backward", dy=dy, y=y, out=out)


@contract()
def add(a: Array, b: Array, out: Out, *, relu: bool = False) -> None:
    """out = a + b, then max(0, ·) if `relu`. One shape and float type; out may be a or b.

    Raises: ShapeError, DTypeError.
    """
    same_float("add", a=a, b=b, out=out)
    has_shape("add", tuple(a.shape), b=b, out=out)
    contiguous("add", a=a, b=b, out=out)


@contract()
def mul(a: Array, b: Array, out: Out) -> None:
    """out = a * b, element by element. One shape and float type; out may be a or b.

    Raises: ShapeError, DTypeError.
    """
    same_float("mul", a=a, b=b, out=out)
    has_shape("mul", tuple(a.shape), b=b, out=out)
    contiguous("mul", a=a, b=b, out=out)


@contract()
def concat(xs: Sequence[Array], out: Out) -> None:
    """out[..., offset_i : offset_i + C_i] = xs[i], offsets counted up in order.

    xs: arrays [N,H,W,C_i] of one float type; out [N,H,W, sum of C_i]. An array that already is its
    slice of out (a producer stored at a channel offset) is left as it is.

    Raises: ShapeError, DTypeError.
    """
    require(len(xs) >= 1, "concat", "needs at least one array")
    same_float("concat", out=out, **{f"xs[{i}]": x for i, x in enumerate(xs)})
    first = tuple(xs[0].shape)
    channels = 0
    for i, x in enumerate(xs):
        has_rank("concat", 4, **{f"xs[{i}]": x})
        has_shape("concat", (*first[:-1], x.shape[-1]), **{f"xs[{i}]": x})
        pitched("concat", **{f"xs[{i}]": x})
        channels += x.shape[-1]
    has_shape("concat", (*first[:-1], channels), out=out)
    pitched("concat", out=out)


@contract()
def channel_slice(x: Array, out: Out, *, offset: int) -> None:
    """out = x[..., offset : offset + C of out]: the gradient of concat for one of its inputs.

    x [N,H,W,C], out [N,H,W,C'] of one float type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("channel_slice", 4, x=x, out=out)
    same_float("channel_slice", x=x, out=out)
    has_shape("channel_slice", (*tuple(x.shape)[:-1], out.shape[-1]), out=out)
    require(
        0 <= offset <= x.shape[-1] - out.shape[-1],
        "channel_slice",
        "the slice must lie inside the channels",
        offset=offset,
        x=tuple(x.shape),
        out=tuple(out.shape),
    )
    pitched("channel_slice", x=x, out=out)


@dataclass(frozen=True)
class Dropout:
    """Dropout with probability `p` of dropping, 0 <= p < 1; what is kept is scaled by 1/(1-p)."""

    p: float

    def __post_init__(self) -> None:
        """Check the probability. Raises: ShapeError."""
        require(0.0 <= self.p < 1.0, "dropout", "p must be in [0, 1)", p=self.p)

    @property
    def threshold(self) -> int:
        """Element i is kept when its 32 random bits, as an unsigned number, are >= this."""
        return min(round(self.p * 2**32), 2**32 - 1)


@contract()
def dropout(x: Array, out: Out, *, op: Dropout, key: Array) -> None:
    """out[i] = x[i] / (1 - p) where the i-th Philox number of `key` is >= p * 2³², else 0.

    x and out of one shape and float type (i counts in C order), out may be x; key uint32[4] as
    made by `philox.key`. The gradient is the same function applied to dy.

    Raises: ShapeError, DTypeError.
    """
    same_float("dropout", x=x, out=out)
    has_shape("dropout", tuple(x.shape), out=out)
    has_dtype("dropout", "uint32", key=key)
    has_shape("dropout", (4,), key=key)
    contiguous("dropout", x=x, out=out, key=key)


@contract()
def cast(x: Array, out: Out) -> None:
    """out = x converted to out's float type, rounded to nearest even. One shape.

    Raises: ShapeError, DTypeError.
    """
    for name, array in (("x", x), ("out", out)):
        if dtype_name(array) not in FLOATS:
            raise DTypeError(
                f"cast: {name} must be one of {', '.join(FLOATS)}, not {dtype_name(array)}"
            )
    has_shape("cast", tuple(x.shape), out=out)
    contiguous("cast", x=x, out=out)
    disjoint("cast", out, x=x)
