"""The methods of GraphBuilder for ops without parameters, one short method each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..kernels import spec
from .build_nodes import Nodes
from .errors import InputError
from .geometry import Padding, Size, four, two
from .ir import Value

MOST_TAPS = 127  # pixels of a window of max pooling


class Ops(Nodes):
    """Activations, pools, norms without parameters, and what moves or joins elements."""

    def relu(self, x: Value) -> Value:
        """max(0, x)."""
        return self._emit("relu", self._layer("relu"), x.shape, x=x)

    def max_pool2d(
        self,
        x: Value,
        kernel: Size,
        stride: Size | None = None,
        *,
        padding: Padding = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        name: str | None = None,
    ) -> Value:
        """Max pooling; the stride is the kernel unless given."""
        layer = self._layer("max_pool2d", name)
        with self._told(layer):
            op = spec.MaxPool2d(
                two(kernel), two(kernel if stride is None else stride), four(padding),
                two(dilation), ceil_mode,
            )  # fmt: skip
            out = op.output_shape(x.shape)
        code = Value(f"{layer}/code", out, "int8") if self.training else None
        return self._emit("max_pool2d", layer, out, x=x, code=code, op=op)

    def avg_pool2d(
        self,
        x: Value,
        kernel: Size,
        stride: Size | None = None,
        *,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        name: str | None = None,
    ) -> Value:
        """Average pooling; the stride is the kernel unless given."""
        layer = self._layer("avg_pool2d", name)
        with self._told(layer):
            op = spec.AvgPool2d(
                two(kernel), two(kernel if stride is None else stride), four(padding), ceil_mode,
                count_include_pad,
            )  # fmt: skip
            out = op.output_shape(x.shape)
        return self._emit("avg_pool2d", layer, out, x=x, op=op)

    def global_avg_pool2d(self, x: Value) -> Value:
        """The mean of every channel. x [N,H,W,C] → [N,C]."""
        shape = (x.shape[0], x.shape[3])
        return self._emit("global_avg_pool2d", self._layer("global_avg_pool2d"), shape, x=x)

    def lrn(
        self,
        x: Value,
        *,
        size: int = 5,
        alpha: float = 5e-4,
        beta: float = 0.75,
        k: float = 2.0,
    ) -> Value:
        """Local response normalisation across channels."""
        op = spec.LRN(size, alpha, beta, k)
        return self._emit("lrn", self._layer("lrn"), x.shape, x=x, op=op)

    def dropout(self, x: Value, p: float) -> Value:
        """Drop with probability p while training; nothing at all otherwise."""
        layer = self._layer("dropout")
        with self._told(layer):
            op = spec.Dropout(p)
        if not self.training or p == 0:
            return x
        key = Value(f"{layer}/key", (4,), "uint32", "key")
        self._keys.append(key)
        return self._emit("dropout", layer, x.shape, x=x, op=op, key=key)

    def global_max_pool2d(self, x: Value) -> Value:
        """The maximum of every channel. x [N,H,W,C] → [N,C].

        A pool's codes tell 127 pixels apart; larger images are pooled in several steps, rows of
        pixels first, so that the first maximum in row-major order still wins.
        """
        _, h, w, _ = x.shape
        while h * w > MOST_TAPS:
            kernel = (1, min(w, MOST_TAPS)) if w > 1 else (MOST_TAPS, 1)
            x = self.max_pool2d(x, kernel, ceil_mode=True)
            _, h, w, _ = x.shape
        return self.flatten(self.max_pool2d(x, (h, w)))

    def add(self, a: Value, b: Value) -> Value:
        """a + b of one shape (residual connections); see `broadcast` for others."""
        layer = self._layer("add")
        with self._told(layer):
            return self._emit("add", layer, a.shape, a=a, b=b)

    def matmul(self, x: Value, w: Value) -> Value:
        """x wᵀ of two activations. x [N,C], w [K,C] → [N,K]."""
        shape = (x.shape[0], w.shape[0])
        return self._emit("dense", self._layer("matmul"), shape, x=x, w=w, b=None)

    def mul(self, a: Value, b: Value) -> Value:
        """a * b, element by element, of one shape; see `broadcast` for others."""
        return self._emit("mul", self._layer("mul"), a.shape, a=a, b=b)

    def clip(self, x: Value, low: float = -math.inf, high: float = math.inf) -> Value:
        """min(max(x, low), high)."""
        layer = self._layer("clip")
        with self._told(layer):
            op = spec.Clip(low, high)
        return self._emit("clip", layer, x.shape, x=x, op=op)

    def leaky_relu(self, x: Value, slope: float = 0.01) -> Value:
        """slope * x where x <= 0, else x."""
        layer = self._layer("leaky_relu")
        with self._told(layer):
            op = spec.LeakyRelu(slope)
        return self._emit("leaky_relu", layer, x.shape, x=x, op=op)

    def softmax(self, x: Value, *, log: bool = False) -> Value:
        """Softmax over the last axis, or its logarithm."""
        return self._emit("softmax", self._layer("softmax"), x.shape, x=x, log=log)

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """x with axis `axes[i]` as axis i; (0, 3, 1, 2) makes NCHW of NHWC."""
        layer, axes = self._layer("transpose"), tuple(axes)
        known = all(0 <= axis < len(x.shape) for axis in axes)
        shape = tuple(x.shape[axis] for axis in axes) if known else x.shape
        return self._emit("transpose", layer, shape, x.dtype, x=x, axes=axes)

    def pad(
        self, x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0
    ) -> Value:
        """Elements of one value before and after each axis; negative counts crop."""
        layer = self._layer("pad")
        with self._told(layer):
            op = spec.Pad(tuple(before), tuple(after), value)
            shape = op.output_shape(x.shape)
        return self._emit("pad", layer, shape, x.dtype, x=x, op=op)

    def broadcast(self, x: Value, shape: Sequence[int]) -> Value:
        """x repeated to `shape` by NumPy's rules, in the graph's type; x itself if it fits."""
        shape = tuple(shape)
        if (x.shape, x.dtype) == (shape, self.dtype):
            return x
        if len(x.shape) < len(shape):
            x = self.reshape(x, (*(1,) * (len(shape) - len(x.shape)), *x.shape))
        return self._emit("broadcast", self._layer("broadcast"), shape, x=x)

    def reduce_sum(self, x: Value, axes: Sequence[int], *, keepdims: bool = False) -> Value:
        """The sums of x over `axes`, which stay as axes of one element with `keepdims`."""
        layer, rank = self._layer("reduce_sum"), len(x.shape)
        if not all(-rank <= axis < rank for axis in axes):
            raise InputError(f"layer {layer} of {self.name}: x {x.shape} has no axes {(*axes,)}")
        summed = {axis % rank for axis in axes}
        shape = tuple(1 if axis in summed else n for axis, n in enumerate(x.shape))
        out = self._emit("reduce_sum", layer, shape, x.dtype, x=x)
        if keepdims or not summed:
            return out
        return self.reshape(out, [n for axis, n in enumerate(shape) if axis not in summed])

    def concat(self, xs: Sequence[Value]) -> Value:
        """Put the channels (the last axis) of several activations behind one another."""
        first, channels = xs[0].shape[:-1], sum(x.shape[-1] for x in xs)
        layer = self._layer("concat")
        if len(first) == 3:
            return self._emit("concat", layer, (*first, channels), xs=tuple(xs))
        for x in xs:
            if x.shape[:-1] != first:
                told = f"all axes but the last must agree: {xs[0].shape} and {x.shape}"
                raise InputError(f"layer {layer} of {self.name}: {told}")
        pixels = math.prod(first), 1, 1
        rows = tuple(self.reshape(x, (*pixels, x.shape[-1])) for x in xs)
        joined = self._emit("concat", layer, (*pixels, channels), xs=rows)
        return self.reshape(joined, (*first, channels))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """The same memory with another shape of as many elements."""
        layer, shape = self._layer("reshape"), tuple(shape)
        if min(shape, default=1) < 0 or math.prod(shape) != math.prod(x.shape):
            told = f"{x.shape} cannot become {shape}: {math.prod(x.shape)} elements"
            raise InputError(f"layer {layer} of {self.name}: {told}")
        return self._emit("reshape", layer, shape, x.dtype, x=x)

    def flatten(self, x: Value) -> Value:
        """[N,H,W,C] → [N, H*W*C], the same memory."""
        layer, shape = self._layer("flatten"), (x.shape[0], math.prod(x.shape[1:]))
        return self._emit("reshape", layer, shape, x.dtype, x=x)
