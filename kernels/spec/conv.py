"""The contract of convolution: forward, both gradients, and the fused forms.

Letters: N images, H x W input, C channels, K filters, R x S filter size, P x Q output. Activations
are NHWC and may have a border of zeros (`grid.py`), weights are KRSC (`[K, R, S, C / groups]`).
Deep-learning "convolution" is cross-correlation:

    y[n,p,q,k] = b[k] + sum over r,s,c of w[k,r,s,c] * x[n,h,v,c]
    with h = p * stride_h + r * dilation_h - top  and  v = q * stride_w + s * dilation_w - left

where a row or column outside the image counts as zero (`padding_mode="zeros"`) or as the nearest
one inside (`"edge"`). The gradients are the two transposes of that bilinear map, so
<dy, conv(x, w)> = <dgrad(dy, w), x> = <wgrad(x, dy), w> holds for every parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    pair,
    same_float,
)
from .grid import bordered
from .pool import MaxPool2d

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv2d:
    """The parameters of a convolution.

    stride and dilation are (rows, columns); padding is (top, bottom, left, right) in pixels;
    precision chooses how float32 products are formed on hardware that offers less than IEEE.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    padding_mode: Literal["zeros", "edge"] = "zeros"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    precision: Literal["ieee", "tf32x3", "tf32"] = "ieee"

    def __post_init__(self) -> None:
        """Check every parameter on its own. Raises: ShapeError."""
        pair("conv2d", "stride", self.stride, 1)
        pair("conv2d", "dilation", self.dilation, 1)
        pair("conv2d", "padding", self.padding, 0, length=4)
        modes, precisions = ("zeros", "edge"), ("ieee", "tf32x3", "tf32")
        require(
            self.padding_mode in modes,
            "conv2d",
            f"padding_mode must be one of {modes}",
            padding_mode=self.padding_mode,
        )
        require(
            self.precision in precisions,
            "conv2d",
            f"precision must be one of {precisions}",
            precision=self.precision,
        )
        ok = isinstance(self.groups, int) and self.groups >= 1
        require(ok, "conv2d", "groups must be an integer >= 1", groups=self.groups)

    def output_shape(self, x: Shape, w: Shape, function: str = "conv2d") -> Shape:
        """(N, P, Q, K) for x (N, H, W, C) and w (K, R, S, C / groups). Raises: ShapeError."""
        (n, h, width, c), (k, r, s, cg) = x, w
        require(
            c == self.groups * cg,
            function,
            f"C of x ({c}) must equal groups*C of w ({self.groups * cg})",
            x=tuple(x),
            w=tuple(w),
        )
        require(
            k % self.groups == 0,
            function,
            f"groups ({self.groups}) must divide the filters K ({k})",
            w=tuple(w),
        )
        require(
            min(h, width, c, k, r, s) >= 1,
            function,
            "H, W, C, K, R, S must be >= 1",
            x=tuple(x),
            w=tuple(w),
        )
        top, bottom, left, right = self.padding
        out = []
        for axis, size, pads, taps, i in (
            ("H", h, top + bottom, r, 0),
            ("W", width, left + right, s, 1),
        ):
            reach = self.dilation[i] * (taps - 1) + 1
            require(
                size + pads >= reach,
                function,
                f"the filter reaches over {reach} pixels but padded {axis} has only {size + pads}",
                x=tuple(x),
                w=tuple(w),
                padding=self.padding,
                dilation=self.dilation,
            )
            out.append((size + pads - reach) // self.stride[i] + 1)
        return n, out[0], out[1], k

    def padded_shape(self, x: Shape) -> Shape:
        """The shape of images [N, H, W, C] with their padding around them."""
        top, bottom, left, right = self.padding
        return x[0], x[1] + top + bottom, x[2] + left + right, x[3]

    def flops(self, x: Shape, w: Shape) -> int:
        """Floating-point operations of one pass (2 per multiply-add, padding counted)."""
        n, p, q, k = self.output_shape(x, w)
        return 2 * n * p * q * k * w[1] * w[2] * w[3]


def _epilogue(function: str, w: Array, b: Array | None, out: Array, dtype: str) -> None:
    contiguous(function, w=w, b=b)
    if b is not None:
        has_shape(function, (w.shape[0],), b=b)
        has_dtype(function, accumulator(dtype), b=b)


@contract(flops=lambda x, w, op, **_: op.flops(x.shape, w.shape))
def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    *,
    op: Conv2d,
    relu: bool = False,
    residual: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = conv(x, w) + b + residual, then max(0, ·) if `relu`; rounded once, at the end.

    x [N,H,W,C], w [K,R,S,C/groups], residual and out [N,P,Q,K], all of one float type; b [K] of
    the accumulator's type. NaN survives the ReLU. `workspace` uint8 of `config.workspace_bytes`;
    None: the backend chooses and allocates for this one call.

    Raises: ShapeError, DTypeError.
    """
    has_rank("conv2d", 4, x=x, w=w, out=out)
    dtype = same_float("conv2d", x=x, w=w, out=out, residual=residual)
    has_shape("conv2d", op.output_shape(x.shape, w.shape), out=out, residual=residual)
    _epilogue("conv2d", w, b, out, dtype)
    bordered("conv2d", x=x, residual=residual, out=out)
    disjoint("conv2d", out, x=x, w=w, b=b, residual=residual)


@contract(flops=lambda w, out, op, **_: op.flops(out.shape, w.shape))
def conv2d_dgrad(
    dy: Array,
    w: Array,
    out: Out,
    *,
    op: Conv2d,
    mask: Array | None = None,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Gradient of conv2d with respect to x, optionally through the ReLU that made x.

    dy [N,P,Q,K], w [K,R,S,C/groups], out (= dx) [N,H,W,C], one float type. `mask` [N,H,W,C] is x
    itself where x is a ReLU's output: dx becomes 0 where mask <= 0 (a NaN passes dx on). `db` [C],
    accumulator's type, receives the sum of dx over N, H, W, the bias gradient of the layer below; a
    backend may sum dx before or after rounding it.

    Raises: ShapeError, DTypeError.
    """
    has_rank("conv2d_dgrad", 4, dy=dy, w=w, out=out)
    dtype = same_float("conv2d_dgrad", dy=dy, w=w, out=out, mask=mask)
    has_shape("conv2d_dgrad", op.output_shape(out.shape, w.shape, "conv2d_dgrad"), dy=dy)
    has_shape("conv2d_dgrad", tuple(out.shape), mask=mask)
    has_shape("conv2d_dgrad", (out.shape[3],), db=db)
    has_dtype("conv2d_dgrad", accumulator(dtype), db=db)
    contiguous("conv2d_dgrad", w=w, db=db)
    bordered("conv2d_dgrad", dy=dy, mask=mask, out=out)
    disjoint("conv2d_dgrad", out, dy=dy, w=w, mask=mask, db=db)


@contract(flops=lambda x, out, op, **_: op.flops(x.shape, out.shape))
def conv2d_wgrad(
    x: Array,
    dy: Array,
    out: Out,
    *,
    op: Conv2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Gradient of conv2d with respect to w, summed over images and pixels in a fixed order.

    x [N,H,W,C] and dy [N,P,Q,K] of one float type; out (= dw) [K,R,S,C/groups] of the
    accumulator's type, zero for an empty batch.

    Raises: ShapeError, DTypeError.
    """
    has_rank("conv2d_wgrad", 4, x=x, dy=dy, out=out)
    dtype = same_float("conv2d_wgrad", x=x, dy=dy)
    has_dtype("conv2d_wgrad", accumulator(dtype), out=out)
    has_shape("conv2d_wgrad", op.output_shape(x.shape, out.shape, "conv2d_wgrad"), dy=dy)
    contiguous("conv2d_wgrad", out=out)
    bordered("conv2d_wgrad", x=x, dy=dy)
    disjoint("conv2d_wgrad", out, x=x, dy=dy)


DEAD = 4  # the code of a pooled value that is <= 0 before the ReLU: no gradient passes


def _fusible_pool(function: str, pool: MaxPool2d) -> None:
    ok = pool == MaxPool2d(kernel=(2, 2), stride=(2, 2))
    require(ok, function, "only the 2x2 max pool of stride 2 without padding fuses", pool=pool)


@contract(flops=lambda x, w, op, **_: op.flops(x.shape, w.shape))
def conv2d_relu_pool(
    x: Array,
    w: Array,
    b: Array | None,
    out: Out,
    code: Out | None,
    *,
    op: Conv2d,
    pool: MaxPool2d,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """out = max_pool(relu(conv(x, w) + b)) without the activation between them.

    x [N,H,W,C], w [K,R,S,C/groups], out [N,P//2,Q//2,K] of one float type; b [K] of the
    accumulator's type; code int8 like out: 0..3 for the first maximum of the window in row-major
    order, or 4 (`DEAD`) where the maximum is <= 0 before the ReLU. code may be None (inference).
    Values are compared in the accumulator's type, before they are rounded.

    Raises: ShapeError, DTypeError.
    """
    has_rank("conv2d_relu_pool", 4, x=x, w=w, out=out)
    dtype = same_float("conv2d_relu_pool", x=x, w=w, out=out)
    _fusible_pool("conv2d_relu_pool", pool)
    conv_shape = op.output_shape(x.shape, w.shape, "conv2d_relu_pool")
    has_shape("conv2d_relu_pool", pool.output_shape(conv_shape), out=out, code=code)
    has_dtype("conv2d_relu_pool", "int8", code=code)
    _epilogue("conv2d_relu_pool", w, b, out, dtype)
    contiguous("conv2d_relu_pool", code=code)
    bordered("conv2d_relu_pool", x=x, out=out)
    disjoint("conv2d_relu_pool", out, x=x, w=w, b=b, code=code)


@contract()
def conv2d_relu_pool_backward(
    dy: Array,
    code: Array,
    out: Out,
    *,
    pool: MaxPool2d,
    db: Out | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Gradient with respect to the convolution's output, from the pooled gradient and the codes.

    dy [N,P//2,Q//2,K], code int8 like dy, out [N,P,Q,K]: dy where the code points, 0 elsewhere
    (whole windows of code 4, and the last row or column of an odd P or Q). `db` [K], accumulator's
    type, receives the sum of out over N, P, Q.

    Raises: ShapeError, DTypeError.
    """
    name = "conv2d_relu_pool_backward"
    has_rank(name, 4, dy=dy, out=out)
    dtype = same_float(name, dy=dy, out=out)
    _fusible_pool(name, pool)
    has_shape(name, pool.output_shape(tuple(out.shape)), dy=dy, code=code)
    has_dtype(name, "int8", code=code)
    has_shape(name, (out.shape[3],), db=db)
    has_dtype(name, accumulator(dtype), db=db)
    contiguous(name, code=code, db=db)
    bordered(name, dy=dy, out=out)
    disjoint(name, out, dy=dy, code=code, db=db)
