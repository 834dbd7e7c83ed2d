"""The contract of dense (fully connected) layers: y = x wᵀ + b, and both gradients.

x is [N, C] (images, features), w is [K, C] (outputs, features), y is [N, K].
"""

from __future__ import annotations

from ..errors import require
from .contract import (
    Array,
    Config,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_rank,
    has_shape,
    pitched,
    same_float,
)


def _flops(a: Array, b: Array) -> int:
    return 2 * a.shape[0] * a.shape[1] * b.shape[1]


@contract(flops=lambda out, w, **_: _flops(out, w))
def dense(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = x wᵀ + b, then max(0, ·) if `relu`; rounded once, at the end.

    x [N,C], w [K,C], out [N,K] of one float type; b [K] of the accumulator's type. NaN survives
    the ReLU.

    Raises: ShapeError, DTypeError.
    """
    has_rank("dense", 2, x=x, w=w, out=out)
    dtype = same_float("dense", x=x, w=w, out=out)
    require(
        x.shape[1] == w.shape[1],
        "dense",
        f"C of x ({x.shape[1]}) must equal C of w ({w.shape[1]})",
        x=tuple(x.shape),
        w=tuple(w.shape),
    )
    has_shape("dense", (x.shape[0], w.shape[0]), out=out)
    has_shape("dense", (w.shape[0],), b=b)
    has_dtype("dense", accumulator(dtype), b=b)
    contiguous("dense", x=x, w=w, b=b, out=out)
    disjoint("dense", out, x=x, w=w, b=b)


@contract(flops=lambda dy, w, **_: _flops(dy, w))
def dense_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Gradient of dense with respect to x: out = dy w, optionally through the ReLU that made x.

    dy [N,K], w [K,C], out (= dx) and mask [N,C] of one float type; `mask` and `db` [C] as in
    `conv2d_dgrad`.

    Raises: ShapeError, DTypeError.
    """
    has_rank("dense_dgrad", 2, dy=dy, w=w, out=out)
    dtype = same_float("dense_dgrad", dy=dy, w=w, out=out, mask=mask)
    has_shape("dense_dgrad", (out.shape[0], w.shape[0]), dy=dy)
    has_shape("dense_dgrad", (dy.shape[0], w.shape[1]), out=out, mask=mask)
    has_shape("dense_dgrad", (w.shape[1],), db=db)
    has_dtype("dense_dgrad", accumulator(dtype), db=db)
    contiguous("dense_dgrad", dy=dy, w=w, mask=mask, out=out, db=db)
    disjoint("dense_dgrad", out, dy=dy, w=w, mask=mask, db=db)


@contract(flops=lambda x, dy, **_: 2 * x.shape[0] * x.shape[1] * dy.shape[1])
def dense_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Gradient of dense with respect to w: out = dyᵀ x, in a fixed order.

    x [N,C], dy [N,K] of one float type; out (= dw) [K,C] of the accumulator's type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("dense_wgrad", 2, x=x, dy=dy, out=out)
    dtype = same_float("dense_wgrad", x=x, dy=dy)
    has_dtype("dense_wgrad", accumulator(dtype), out=out)
    has_shape("dense_wgrad", (x.shape[0], out.shape[0]), dy=dy)
    has_shape("dense_wgrad", (dy.shape[1], x.shape[1]), out=out)
    contiguous("dense_wgrad", x=x, dy=dy, out=out)
    disjoint("dense_wgrad", out, x=x, dy=dy)


@contract()
def bias_grad(
    dy: Array, out: Out, *, workspace: Array | None = None, config: Config | None = None
) -> None:
    """Gradient with respect to a bias: out[k] = sum of dy over all other axes, in a fixed order.

    dy [N,P,Q,K] (perhaps a slice of channels) or [N,K] of a float type; out [K] of the
    accumulator's type.

    Raises: ShapeError, DTypeError.
    """
    dtype = same_float("bias_grad", dy=dy)
    ok = len(dy.shape) in (2, 4)
    require(ok, "bias_grad", "dy must have 2 or 4 dimensions", dy=tuple(dy.shape))
    has_dtype("bias_grad", accumulator(dtype), out=out)
    has_shape("bias_grad", tuple(dy.shape[-1:]), out=out)
    (pitched if len(dy.shape) == 4 else contiguous)("bias_grad", dy=dy)
    contiguous("bias_grad", out=out)
    disjoint("bias_grad", out, dy=dy)
