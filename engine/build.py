"""GraphBuilder: how a network is written down, one short method per op.

    b = GraphBuilder("tiny", training=True)
    x = b.input("x", (64, 28, 28, 1))
    y = b.relu(b.conv2d(x, 32, 3, padding="same", name="conv1"))

Here are the layers that have parameters, and the losses; the other ops are in `build_ops.py`. Every
layer that has parameters takes a name; the others are numbered. A shape that cannot work raises
InputError with the layer's name and both shapes.
"""

from __future__ import annotations

import math
from typing import Any

from ..kernels import spec
from .build_ops import Ops
from .errors import InputError
from .geometry import Padding, Size, four, two
from .ir import Graph, Node, Value

GRAD_SCALE = "grad_scale"  # the input that multiplies all gradients


class GraphBuilder(Ops):
    """Collects the nodes of one network for one batch size.

    `dtype` is the type of activations and weights (biases, norms and statistics are float32, or
    float64 for float64). `products` is how convolutions form products of float32. `training` False
    leaves dropout out and uses running statistics.
    """

    def conv2d(
        self,
        x: Value,
        filters: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = "valid",
        padding_mode: str = "zeros",
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        name: str | None = None,
    ) -> Value:
        """Convolution. x [N,H,W,C] → [N,P,Q,filters]; weights KRSC."""
        layer = self._layer("conv2d", name)
        r, s = two(kernel)
        with self._told(layer):
            op = spec.Conv2d(
                two(stride), four(padding, (r, s), two(dilation)), padding_mode,  # type: ignore[arg-type]
                two(dilation), groups, self.products,  # type: ignore[arg-type]
            )  # fmt: skip
            shape = (filters, r, s, x.shape[-1] // groups)
            out = op.output_shape(x.shape, shape)
        w = self.parameter(f"{layer}/w", shape, "he", fan_in=math.prod(shape[1:]), decay=True)
        b = self.parameter(f"{layer}/b", (filters,), "zeros") if bias else None
        return self._emit("conv2d", layer, out, x=x, w=w, b=b, op=op)

    def dense(self, x: Value, units: int, *, bias: bool = True, name: str | None = None) -> Value:
        """Fully connected layer. x [N,C] → [N,units]; an image is flattened first."""
        layer = self._layer("dense", name)
        if len(x.shape) != 2:
            x = self.flatten(x)
        n, c = x.shape
        w = self.parameter(f"{layer}/w", (units, c), "he", fan_in=c, decay=True)
        b = self.parameter(f"{layer}/b", (units,), "zeros") if bias else None
        return self._emit("dense", layer, (n, units), x=x, w=w, b=b)

    def batch_norm(
        self, x: Value, *, eps: float = 1e-5, momentum: float = 0.1, name: str | None = None
    ) -> Value:
        """Batch norm by this batch's statistics (training) or the running ones."""
        layer = self._layer("batch_norm", name)
        c, dtype = (x.shape[3],), spec.accumulator(self.dtype)
        op = spec.BatchNorm(eps, momentum)
        gamma = self.parameter(f"{layer}/gamma", c, "ones")
        beta = self.parameter(f"{layer}/beta", c, "zeros")
        running = {n: self.state(f"{layer}/{n}", c) for n in ("running_mean", "running_var")}
        given: dict[str, Any] = {"x": x, "gamma": gamma, "beta": beta, **running, "op": op}
        if not self.training:
            return self._emit("batch_norm_inference", layer, x.shape, **given)
        saved = {n: Value(f"{layer}/{n}", c, dtype) for n in ("mean", "invstd")}
        return self._emit("batch_norm_training", layer, x.shape, **given, **saved)

    def prelu(self, x: Value, slope: Value | None = None, *, name: str | None = None) -> Value:
        """slope * x where x <= 0, else x; slope [C] or [1], if none is given a parameter [C].

        The parameter starts at 0.25 (He et al. 2015).
        """
        layer = self._layer("prelu", name)
        if slope is None:
            slope = self.parameter(f"{layer}/slope", x.shape[-1:], 0.25)
        return self._emit("prelu", layer, x.shape, x=x, slope=slope)

    def auxiliary(self, logits: Value, weight: float) -> None:
        """A further head [N, classes] whose loss counts `weight` times; for training only."""
        if not self.training:
            raise InputError(f"{self.name}: an auxiliary head belongs into training only")
        self.auxiliaries.append((logits, weight))

    def softmax_cross_entropy(
        self,
        logits: Value,
        labels: Value,
        label_smoothing: float = 0.0,
        scaled: bool = False,
        *,
        name: str = "loss",
        weight: float = 1.0,
    ) -> Value:
        """The loss of every image, [N]; training also makes the gradient of the mean.

        `scaled` adds an input `grad_scale` [1] that multiplies the gradient (loss scaling). A loss
        beside the main one has a `name` and a `weight` that multiplies its gradient.
        """
        dtype = spec.accumulator(self.dtype)
        main = name == "loss"
        loss = Value(name, logits.shape[:1], dtype)
        dlogits = Value("dlogits" if main else f"{name}/dlogits", logits.shape, logits.dtype)
        arguments: dict[str, Any] = {
            "logits": logits,
            "labels": labels,
            "loss": loss,
            "dlogits": dlogits if self.training else None,
            "op": spec.SoftmaxCrossEntropy(label_smoothing, weight),
        }
        if self.training and scaled:
            given = (v for v in self._inputs if v.name == GRAD_SCALE)
            arguments["grad_scale"] = next(given, None) or self.input(GRAD_SCALE, (1,), dtype)
        node = Node("softmax_cross_entropy", name, arguments)
        with self._told(name):
            spec.softmax_cross_entropy(**arguments)
        self._nodes.append(node)
        return loss

    def finish(self, **outputs: Value) -> Graph:
        """The graph, with the values that callers will read under these names."""
        return Graph(
            self.name, tuple(self._inputs), tuple(self._keys), tuple(self._params.values()),
            tuple(self._states), tuple(self._nodes), outputs,
            constants=dict(self._constants),
        )  # fmt: skip
