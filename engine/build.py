"""GraphBuilder: how a network is written down, one short method per op.

    b = GraphBuilder("tiny", training=True)
    x = b.input("x", (64, 28, 28, 1))
    y = b.relu(b.conv2d(x, 32, 3, padding="same", name="conv1"))

Every layer that has parameters takes a name; the others are numbered. A shape that cannot work
raises InputError with the layer's name and both shapes.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..kernels import spec
from ..kernels.errors import KernelError
from .errors import InputError
from .geometry import Padding, Size, four, two
from .ir import Graph, Node, Parameter, Value


class GraphBuilder:
    """Collects the nodes of one network for one batch size.

    `dtype` is the type of activations and weights (biases, norms and statistics are float32, or
    float64 for float64). `products` is how convolutions form products of float32. `training` False
    leaves dropout out and uses running statistics.
    """

    def __init__(
        self, name: str, *, dtype: str = "float32", products: str = "ieee", training: bool = True
    ) -> None:
        """Start an empty graph."""
        self.products = products
        self.name = name
        self.dtype = dtype
        self.training = training
        self._trainable = True
        self._scope: list[str] = []
        self._count: Counter[str] = Counter()
        self._inputs: list[Value] = []
        self._keys: list[Value] = []
        self._params: dict[str, Parameter] = {}
        self._states: list[Value] = []
        self._nodes: list[Node] = []
        self.auxiliaries: list[tuple[Value, float]] = []
        self._loss_weights: dict[str, float] = {}
        self._constants: dict[str, tuple[float, ...]] = {}

    # What a graph is given

    def input(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Value:
        """An array that the caller fills before each run."""
        value = Value(name, tuple(shape), dtype or self.dtype, "input")
        self._inputs.append(value)
        return value

    def constant(self, name: str, values: Iterable[float]) -> Value:
        """A vector that is the same in every run, in the accumulator's type."""
        self._constants[name] = kept = tuple(map(float, values))
        return self.input(name, (len(kept),), spec.accumulator(self.dtype))

    def pictures(
        self, shape: tuple[int, ...], mean: Iterable[float], scale: Iterable[float]
    ) -> Value:
        """uint8 pictures [N,H,W,C] and their moves, made and normalised; see `spec.normalise`."""
        arguments = {
            "images": self.input("images", shape, "uint8"),
            "moves": self.input("moves", (shape[0], 3), "int32"),
            "mean": self.constant("images/mean", mean),
            "scale": self.constant("images/scale", scale),
        }
        return self._emit("normalise", "images", shape, **arguments)

    def parameter(
        self, name: str, shape: tuple[int, ...], init: Any, *, fan_in: int = 1, decay: bool = False
    ) -> Value:
        """A parameter; weights (`decay`) have the graph's dtype, the others the accumulator's."""
        if name in self._params:
            raise InputError(f"two layers are called {name.rpartition('/')[0]!r}; rename one")
        dtype = self.dtype if decay else spec.accumulator(self.dtype)
        value = Value(name, tuple(shape), dtype, "param")
        self._params[name] = Parameter(value, init, fan_in, decay, self._trainable)
        return value

    def state(self, name: str, shape: tuple[int, ...]) -> Value:
        """An array kept between steps; `…/running_var` starts at one, all others at zero."""
        value = Value(name, tuple(shape), spec.accumulator(self.dtype), "state")
        self._states.append(value)
        return value

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name/` in front of the names of the layers made inside."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    @contextlib.contextmanager
    def frozen(self, frozen: bool = True) -> Iterator[None]:
        """Parameters made inside get no gradient (and no work is done for one)."""
        before, self._trainable = self._trainable, not frozen
        try:
            yield
        finally:
            self._trainable = before

    # Layers

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
        ceil_mode: bool = False,
        name: str | None = None,
    ) -> Value:
        """Max pooling; the stride is the kernel unless given."""
        layer = self._layer("max_pool2d", name)
        with self._told(layer):
            op = spec.MaxPool2d(
                two(kernel), two(kernel if stride is None else stride), four(padding),
                ceil_mode=ceil_mode,
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

    def add(self, a: Value, b: Value) -> Value:
        """a + b of one shape (residual connections)."""
        layer = self._layer("add")
        with self._told(layer):
            return self._emit("add", layer, a.shape, a=a, b=b)

    def concat(self, xs: Sequence[Value]) -> Value:
        """Put the channels of several activations behind one another."""
        shape = (*xs[0].shape[:-1], sum(x.shape[-1] for x in xs))
        return self._emit("concat", self._layer("concat"), shape, xs=tuple(xs))

    def flatten(self, x: Value) -> Value:
        """[N,H,W,C] → [N, H*W*C], the same memory."""
        layer = self._layer("flatten")
        return self._emit("reshape", layer, (x.shape[0], math.prod(x.shape[1:])), x=x)

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
            "op": spec.SoftmaxCrossEntropy(label_smoothing),
        }
        if self.training and not main:
            arguments["grad_scale"] = self.input(f"{name}/grad_scale", (1,), dtype)
            self._loss_weights[f"{name}/grad_scale"] = weight
        elif self.training and scaled:
            arguments["grad_scale"] = self.input("grad_scale", (1,), dtype)
        node = Node("softmax_cross_entropy", name, arguments)
        with self._told(name):
            spec.softmax_cross_entropy(**arguments)
        self._nodes.append(node)
        return loss

    def finish(self, **outputs: Value) -> Graph:
        """The graph, with the values that callers will read under these names."""
        return Graph(
            self.name, tuple(self._inputs), tuple(self._keys), tuple(self._params.values()),
            tuple(self._states), tuple(self._nodes), outputs, dict(self._loss_weights),
            dict(self._constants),
        )  # fmt: skip

    # Helpers

    def _layer(self, op: str, name: str | None = None) -> str:
        scope = "/".join(self._scope)
        if name is None:
            self._count[f"{scope}/{op}"] += 1
            name = f"{op}{self._count[f'{scope}/{op}']}"
        return f"{scope}/{name}" if scope else name

    def _emit(
        self, function: str, layer: str, shape: tuple[int, ...], /, **arguments: Any
    ) -> Value:
        out = Value(f"{layer}/y", tuple(shape), self.dtype)
        node = Node(function, layer, {**arguments, "out": out})
        if function != "reshape":
            with self._told(layer):
                spec.CONTRACTS[function](**node.arguments)
        self._nodes.append(node)
        return out

    @contextlib.contextmanager
    def _told(self, layer: str) -> Iterator[None]:
        try:
            yield
        except KernelError as error:
            raise InputError(f"layer {layer} of {self.name}: {error}") from None
