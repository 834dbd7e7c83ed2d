"""The contract of pooling: max (with int8 codes), average, global average, and their gradients.

Windows are R x S pixels, row-major; letters as in `conv.py`. Padding never wins a maximum. With
`ceil_mode` the last window may hang over the edge, provided that it starts inside the image or its
leading padding. The gradients gather: each input pixel asks its windows, so nothing is added twice
and the order is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import require
from .contract import (
    Array,
    Out,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_rank,
    has_shape,
    pair,
    pitched,
    same_float,
)

Shape = tuple[int, ...]


def _check(name: str, op: MaxPool2d | AvgPool2d, reach: tuple[int, int]) -> None:
    pair(name, "kernel", op.kernel, 1)
    pair(name, "stride", op.stride, 1)
    pair(name, "padding", op.padding, 0, length=4)
    fits = max(op.padding[:2]) < reach[0] and max(op.padding[2:]) < reach[1]
    require(fits, name, "padding must be smaller than the window", padding=op.padding, window=reach)


def _pooled_shape(name: str, op: MaxPool2d | AvgPool2d, reach: tuple[int, int], x: Shape) -> Shape:
    n, h, w, c = x
    top, bottom, left, right = op.padding
    out = []
    for size, before, after, i in ((h, top, bottom, 0), (w, left, right, 1)):
        free = size + before + after - reach[i]
        require(
            free >= 0,
            name,
            f"the window spans {reach[i]} pixels but padded {'HW'[i]} has only "
            f"{size + before + after}",
            x=tuple(x),
        )
        count = (free + (op.stride[i] - 1 if op.ceil_mode else 0)) // op.stride[i] + 1
        if (count - 1) * op.stride[i] >= size + before:
            count -= 1
        out.append(count)
    return n, out[0], out[1], c


@dataclass(frozen=True)
class MaxPool2d:
    """Max pooling: kernel, stride, dilation (rows, columns), padding (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        pair("max_pool2d", "dilation", self.dilation, 1)
        _check("max_pool2d", self, self.reach)
        taps = self.kernel[0] * self.kernel[1]
        require(
            taps <= 127,
            "max_pool2d",
            "an int8 code holds windows of up to 127 pixels",
            kernel=self.kernel,
        )

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns from the first pixel of a window to its last, both counted."""
        (r, s), (dh, dw) = self.kernel, self.dilation
        return dh * (r - 1) + 1, dw * (s - 1) + 1

    def output_shape(self, x: Shape) -> Shape:
        """(N, P, Q, C) for x (N, H, W, C). Raises: ShapeError."""
        shape = _pooled_shape("max_pool2d", self, self.reach, x)
        for i in (0, 1):
            firsts = range(-self.padding[2 * i], x[1 + i] + self.reach[i], self.stride[i])
            taps = range(0, self.reach[i], self.dilation[i])
            empty = [
                p
                for p, first in zip(range(shape[1 + i]), firsts, strict=False)
                if not any(0 <= first + tap < x[1 + i] for tap in taps)
            ]
            require(
                not empty,
                "max_pool2d",
                "every window must hold a pixel that is not padding",
                x=tuple(x),
                empty_window=empty[:1],
            )
        return shape


@dataclass(frozen=True)
class AvgPool2d:
    """Average pooling; the divisor counts padding unless `count_include_pad` is False.

    Pixels beyond the trailing padding (ceil_mode) never count.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        _check("avg_pool2d", self, self.kernel)

    def output_shape(self, x: Shape) -> Shape:
        """(N, P, Q, C) for x (N, H, W, C). Raises: ShapeError."""
        return _pooled_shape("avg_pool2d", self, self.kernel, x)


@contract()
def max_pool2d(x: Array, out: Out, code: Out | None, *, op: MaxPool2d) -> None:
    """out = the maximum of each window; code = where it was found.

    x [N,H,W,C], out [N,P,Q,C] of one float type; code int8 like out: r*S + s of the first maximum
    in row-major order, or of the first NaN if there is one (then out is NaN). None: not stored.

    Raises: ShapeError, DTypeError.
    """
    has_rank("max_pool2d", 4, x=x, out=out)
    same_float("max_pool2d", x=x, out=out)
    has_shape("max_pool2d", op.output_shape(tuple(x.shape)), out=out, code=code)
    has_dtype("max_pool2d", "int8", code=code)
    contiguous("max_pool2d", code=code)
    pitched("max_pool2d", x=x, out=out)
    disjoint("max_pool2d", out, x=x, code=code)


@contract()
def max_pool2d_backward(dy: Array, code: Array, out: Out, *, op: MaxPool2d) -> None:
    """out[n,h,w,c] = sum of dy over the windows whose code points at that pixel.

    dy [N,P,Q,C], code int8 like dy, out (= dx) [N,H,W,C]; sums in the accumulator's type.

    Raises: ShapeError, DTypeError.
    """
    name = "max_pool2d_backward"
    has_rank(name, 4, dy=dy, out=out)
    same_float(name, dy=dy, out=out)
    has_shape(name, op.output_shape(tuple(out.shape)), dy=dy, code=code)
    has_dtype(name, "int8", code=code)
    contiguous(name, code=code)
    pitched(name, dy=dy, out=out)
    disjoint(name, out, dy=dy, code=code)


@contract()
def avg_pool2d(x: Array, out: Out, *, op: AvgPool2d) -> None:
    """out = the mean of each window. x [N,H,W,C], out [N,P,Q,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("avg_pool2d", 4, x=x, out=out)
    same_float("avg_pool2d", x=x, out=out)
    has_shape("avg_pool2d", op.output_shape(tuple(x.shape)), out=out)
    pitched("avg_pool2d", x=x, out=out)
    disjoint("avg_pool2d", out, x=x)


@contract()
def avg_pool2d_backward(dy: Array, out: Out, *, op: AvgPool2d) -> None:
    """out[n,h,w,c] = sum over the windows that cover the pixel of dy / divisor.

    dy [N,P,Q,C], out (= dx) [N,H,W,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    name = "avg_pool2d_backward"
    has_rank(name, 4, dy=dy, out=out)
    same_float(name, dy=dy, out=out)
    has_shape(name, op.output_shape(tuple(out.shape)), dy=dy)
    pitched(name, dy=dy, out=out)
    disjoint(name, out, dy=dy)


@contract()
def global_avg_pool2d(x: Array, out: Out) -> None:
    """out[n,c] = mean over H and W of x. x [N,H,W,C], out [N,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("global_avg_pool2d", 4, x=x)
    same_float("global_avg_pool2d", x=x, out=out)
    n, h, w, c = x.shape
    require(h * w >= 1, "global_avg_pool2d", "H and W must be >= 1", x=tuple(x.shape))
    has_shape("global_avg_pool2d", (n, c), out=out)
    contiguous("global_avg_pool2d", out=out)
    pitched("global_avg_pool2d", x=x)
    disjoint("global_avg_pool2d", out, x=x)


@contract()
def global_avg_pool2d_backward(dy: Array, out: Out) -> None:
    """out[n,h,w,c] = dy[n,c] / (H*W). dy [N,C], out (= dx) [N,H,W,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    name = "global_avg_pool2d_backward"
    has_rank(name, 4, out=out)
    same_float(name, dy=dy, out=out)
    n, _, _, c = out.shape
    has_shape(name, (n, c), dy=dy)
    contiguous(name, dy=dy)
    pitched(name, out=out)
    disjoint(name, out, dy=dy)
