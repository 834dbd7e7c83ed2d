"""The gradient table: one rule per op, each a vector-Jacobian product.

A rule gets the forward node, the gradient `dy` of its main result, and which of its arguments want
a gradient; it emits the backward calls and returns argument name → gradient, of the type of dy or
of `gradient_of`. Adding an op is one rule here. Nothing is emitted for an argument that nobody
wants (frozen parameters, the image).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..kernels import spec
from .ir import Node, Value

Gradients = dict[str, Value | tuple[Value | None, ...]]
Rule = Callable[["Emitter", Node, Value, set[str]], Gradients]
RULES: dict[str, Rule] = {}


class Emitter:
    """Collects backward nodes; each is named after the forward node that it belongs to."""

    def __init__(self) -> None:
        """Start with no nodes."""
        self.nodes: list[Node] = []

    def __call__(self, function: str, layer: str, out: Value, /, **arguments: Any) -> Value:
        """Emit one call and return its main result."""
        self.nodes.append(Node(function, layer, {**arguments, "out": out}))
        return out


def gradient_of(value: Value, suffix: str = "") -> Value:
    """A fresh value for the gradient of `value`.

    A parameter's has the accumulator's type, everything else the type of the value itself.
    """
    dtype = spec.accumulator(value.dtype) if value.kind == "param" else value.dtype
    return Value(f"grad/{value.name}{suffix}", value.shape, dtype)


def rule(op: str) -> Callable[[Rule], Rule]:
    """Register the gradient rule of `op`."""

    def register(function: Rule) -> Rule:
        RULES[op] = function
        return function

    return register


def _summed(value: Value, node: Node) -> Value:
    """A fresh value for a gradient that is summed in the accumulator's type.

    Its name tells the node where that is not the parameter's own layer: others may use it, too.
    """
    suffix = "" if value.name.startswith(f"{node.name}/") else f"@{node.name}/sums"
    return Value(f"grad/{value.name}{suffix}", value.shape, spec.accumulator(value.dtype))


def _linear(emit: Emitter, node: Node, dy: Value, wanted: set[str], **statics: Any) -> Gradients:
    x, w, b = node["x"], node["w"], node["b"]
    gradients: Gradients = {}
    if "b" in wanted:
        gradients["b"] = emit("bias_grad", node.name, _summed(b, node), dy=dy)
    if "w" in wanted:
        out = _summed(w, node)
        gradients["w"] = emit(f"{node.op}_wgrad", node.name, out, x=x, dy=dy, **statics)
    if "x" in wanted:
        out = Value(f"grad/{x.name}@{node.name}", x.shape, node.out.dtype)
        gradients["x"] = emit(f"{node.op}_dgrad", node.name, out, dy=dy, w=w, **statics)
    return gradients


@rule("conv2d")
def _conv2d(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _linear(emit, node, dy, wanted, op=node["op"])


@rule("dense")
def _dense(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _linear(emit, node, dy, wanted)


def _one(function: str, emit: Emitter, node: Node, /, **arguments: Any) -> Gradients:
    x: Value = node["x"]
    out = Value(f"grad/{x.name}@{node.name}", x.shape, node.out.dtype)
    return {"x": emit(function, node.name, out, **arguments)}


@rule("relu")
def _relu(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("relu_backward", emit, node, dy=dy, y=node.out)


@rule("max_pool2d")
def _max_pool2d(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("max_pool2d_backward", emit, node, dy=dy, code=node["code"], op=node["op"])


@rule("avg_pool2d")
def _avg_pool2d(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("avg_pool2d_backward", emit, node, dy=dy, op=node["op"])


@rule("global_avg_pool2d")
def _global_avg_pool2d(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("global_avg_pool2d_backward", emit, node, dy=dy)


@rule("dropout")
def _dropout(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("dropout", emit, node, x=dy, op=node["op"], key=node["key"])


@rule("lrn")
def _lrn(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("lrn_backward", emit, node, x=node["x"], dy=dy, op=node["op"])


@rule("reshape")
def _reshape(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("reshape", emit, node, x=dy)


@rule("transpose")
def _transpose(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    axes = node["axes"]
    return _one("transpose", emit, node, x=dy, axes=tuple(map(axes.index, range(len(axes)))))


@rule("pad")
def _pad(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("pad", emit, node, x=dy, op=node["op"].transposed)


@rule("broadcast")
def _broadcast(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    x = node["x"]  # perhaps a parameter, whose gradient has the type of sums
    return {"x": emit("reduce_sum", node.name, gradient_of(x, f"@{node.name}"), x=dy)}


@rule("reduce_sum")
def _reduce_sum(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("broadcast", emit, node, x=dy)


@rule("clip")
def _clip(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("clip_backward", emit, node, dy=dy, x=node["x"], op=node["op"])


@rule("leaky_relu")
def _leaky_relu(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("leaky_relu_backward", emit, node, dy=dy, x=node["x"], op=node["op"])


@rule("prelu")
def _prelu(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    x, slope, name = node["x"], node["slope"], node.name
    gradients: Gradients = {}
    if "x" in wanted:
        gradients = _one("prelu_backward", emit, node, dy=dy, x=x, slope=slope)
    if "slope" in wanted:  # sum of dy * min(x, 0)
        below, product = (Value(f"grad/{name}/{n}", x.shape, x.dtype) for n in ("below", "product"))
        emit("clip", name, below, x=x, op=spec.Clip(high=0.0))
        emit("mul", name, product, a=dy, b=below)
        shape = (*(1,) * (len(x.shape) - 1), *slope.shape)
        sums = Value(f"grad/{name}/sums", shape, spec.accumulator(x.dtype))
        emit("reduce_sum", name, sums, x=product)
        out = gradient_of(slope, f"@{name}")
        gradients["slope"] = emit("reshape", name, out, x=sums)
    return gradients


@rule("softmax")
def _softmax(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return _one("softmax_backward", emit, node, dy=dy, y=node.out, log=node["log"])


@rule("mul")
def _mul(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    gradients: Gradients = {}
    for name, other in (("a", "b"), ("b", "a")):
        if name in wanted:
            out = Value(f"grad/{node[name].name}@{node.name}.{name}", dy.shape, dy.dtype)
            gradients[name] = emit("mul", node.name, out, a=dy, b=node[other])
    return gradients


@rule("add")
def _add(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    return {name: dy for name in ("a", "b") if name in wanted}


@rule("concat")
def _concat(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    slices, offset = [], 0
    for i, x in enumerate(node["xs"]):
        out = gradient_of(x, f"@{node.name}.{i}")
        slices.append(emit("channel_slice", node.name, out, x=dy, offset=offset))
        offset += x.shape[-1]
    return {"xs": tuple(slices)}


@rule("batch_norm_training")
def _batch_norm(emit: Emitter, node: Node, dy: Value, wanted: set[str]) -> Gradients:
    gamma, beta = node["gamma"], node["beta"]
    gradients: dict[str, Value] = {
        "x": gradient_of(node["x"], f"@{node.name}"),
        "gamma": _summed(gamma, node),
        "beta": _summed(beta, node),
    }
    emit(
        "batch_norm_backward", node.name, gradients["x"], x=node["x"], dy=dy, gamma=gamma,
        mean=node["mean"], invstd=node["invstd"], dgamma=gradients["gamma"],
        dbeta=gradients["beta"], op=node["op"],
    )  # fmt: skip
    return {name: value for name, value in gradients.items() if name in wanted}


def differentiable(node: Node) -> Mapping[str, Any]:
    """The arguments of `node` that can carry a gradient."""
    names = ("x", "xs", "w", "b", "a", "gamma", "beta", "slope")
    return {name: node[name] for name in names if node[name] is not None}
