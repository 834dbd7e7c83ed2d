"""How each contract function is written as ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir import Node, Value
from .exporter import BATCH, NCHW, PLACES, Exporter, outside, writes


def _pads(padding: Sequence[int]) -> list[int]:
    top, bottom, left, right = padding
    return [top, left, bottom, right]


@writes("conv2d")
def _conv2d(e: Exporter, node: Node) -> None:
    op, x = node["op"], e.name(node["x"])
    pads = _pads(op.padding)
    if op.padding_mode == "edge" and any(pads):
        sizes = e.weight(f"{node.name}/pads", np.asarray([0, 0, *pads[:2], 0, 0, *pads[2:]]))
        x = e.node("Pad", f"{node.name}/edge", [x, sizes], f"{node.name}/edge", mode="edge")
        pads = [0, 0, 0, 0]
    e.emit(
        "Conv", node, [x, e.name(node["w"]), *e.bias(node["b"])], strides=op.stride, pads=pads,
        dilations=op.dilation, group=op.groups, kernel_shape=node["w"].shape[1:3],
    )  # fmt: skip


@writes("dense")
def _dense(e: Exporter, node: Node) -> None:
    x, w = node["x"], node["w"]
    image = e.image_of(x)
    if image is None or w.kind != "param":
        e.emit("Gemm", node, [e.name(x), e.name(w), *e.bias(node["b"])], transB=1)
        return
    columns = e.arrays[w.name].reshape(w.shape[0], *image).transpose(NCHW)
    name = e.weight(w.name, columns.reshape(w.shape))
    e.emit("Gemm", node, [e.name(x, settled=False), name, *e.bias(node["b"])], transB=1)


@writes("relu", "leaky_relu", "clip")
def _each(e: Exporter, node: Node) -> None:
    x, op = node["x"], node["op"]
    inputs, told = [e.name(x, settled=False)], {}
    if node.op == "leaky_relu":
        told["alpha"] = op.slope
    if node.op == "clip":
        for name, bound in (("low", op.low), ("high", op.high)):
            finite = math.isfinite(bound)
            inputs += [e.weight(f"{node.name}/{name}", np.array(bound)) if finite else ""]
    kinds = {"relu": "Relu", "leaky_relu": "LeakyRelu", "clip": "Clip"}
    e.emit(kinds[node.op], node, inputs, **told)
    if (image := e.image_of(x)) is not None:
        e.flattened(node.out, image, e.name(node.out))


@writes("prelu")
def _prelu(e: Exporter, node: Node) -> None:
    x, slope = node["x"], node["slope"]
    array = e.arrays[slope.name]
    name = e.weight(slope.name, array.reshape(-1, 1, 1) if len(x.shape) == 4 else array)
    e.emit("PRelu", node, [e.name(x), name])


@writes("softmax")
def _softmax(e: Exporter, node: Node) -> None:
    axis = 1 if len(node["x"].shape) == 4 else -1
    e.emit("LogSoftmax" if node["log"] else "Softmax", node, [e.name(node["x"])], axis=axis)


@writes("add", "mul")
def _pair(e: Exporter, node: Node) -> None:
    e.emit(node.op.capitalize(), node, [e.name(node["a"]), e.name(node["b"])])


@writes("broadcast")
def _broadcast(e: Exporter, node: Node) -> None:
    users = e.graph.users().get(node.out, [])
    if not all(user.op in ("add", "mul") for user in users):
        raise InputError(f"{node.name}: broadcast is written as ONNX in front of add and mul only")
    e.call(node.out, e.name(node["x"]))  # Add and Mul repeat by themselves


@writes("reduce_sum")
def _reduce_sum(e: Exporter, node: Node) -> None:
    x, out = outside(node["x"].shape), outside(node.out.shape)
    axes = [axis for axis, (n, left) in enumerate(zip(x, out, strict=True)) if n != left]
    told = e.weight(f"{node.name}/axes", np.asarray(axes, np.int64))
    e.emit("ReduceSum", node, [e.name(node["x"]), told], noop_with_empty_axes=1)


@writes("max_pool2d", "avg_pool2d")
def _pool(e: Exporter, node: Node) -> None:
    op = node["op"]
    told: dict[str, Any] = {
        "kernel_shape": op.kernel, "strides": op.stride, "pads": _pads(op.padding),
        "ceil_mode": int(op.ceil_mode),
    }  # fmt: skip
    if node.op == "max_pool2d":
        e.emit("MaxPool", node, [e.name(node["x"])], dilations=op.dilation, **told)
    else:
        counted = int(op.count_include_pad)
        e.emit("AveragePool", node, [e.name(node["x"])], count_include_pad=counted, **told)


@writes("global_avg_pool2d", "global_max_pool2d")
def _global(e: Exporter, node: Node) -> None:
    kind = "GlobalAveragePool" if node.op == "global_avg_pool2d" else "GlobalMaxPool"
    pooled = e.node(kind, f"{node.name}/pool", [e.name(node["x"])], f"{node.name}/pooled")
    e.emit("Flatten", node, [pooled])


@writes("batch_norm_inference")
def _batch_norm(e: Exporter, node: Node) -> None:
    names = [e.name(node[n]) for n in ("x", "gamma", "beta", "running_mean", "running_var")]
    op = node["op"]
    e.emit("BatchNormalization", node, names, epsilon=op.eps, momentum=1 - op.momentum)


@writes("lrn")
def _lrn(e: Exporter, node: Node) -> None:
    op = node["op"]
    if op.size % 2 == 0:
        raise InputError(f"{node.name}: ONNX has no lrn over an even number ({op.size}) like ours")
    e.emit("LRN", node, [e.name(node["x"])], size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)


@writes("concat")
def _concat(e: Exporter, node: Node) -> None:
    e.emit("Concat", node, [e.name(x) for x in node["xs"]], axis=1)


@writes("reshape")
def _reshape(e: Exporter, node: Node) -> None:
    x, out = node["x"], node.out
    name, batch = e.name(x), _kept(x, out)
    if len(x.shape) == 4 and math.prod(x.shape[1:3]) > 1 and x.shape[3] > 1:
        if len(out.shape) == 2 and out.shape[0] == x.shape[0]:
            _, h, w, c = x.shape
            e.flattened(out, (h, w, c), e.node("Flatten", node.name, [name], out.name))
            return
        name = e.node("Transpose", "", [name], f"{out.name}/turned", perm=PLACES)
    if len(out.shape) != 4:
        e.call(out, e.reshape(name, e.label(out), (*batch, *out.shape[len(batch) :])))
        return
    inside = e.reshape(name, f"{out.name}/inside", (*batch, *out.shape[len(batch) :]))
    e.emit("Transpose", node, [inside], perm=NCHW)


def _kept(x: Value, out: Value) -> tuple[int, ...]:
    """(0,), which keeps the number of images, where the first axis is theirs."""
    return (0,) if x.shape[:1] == out.shape[:1] == (BATCH,) else ()


@writes("transpose")
def _transpose(e: Exporter, node: Node) -> None:
    axes = node["axes"]
    if len(axes) == 4:
        perm = [0] * 4
        for axis, source in enumerate(axes):
            perm[PLACES[axis]] = PLACES[source]
        axes = perm
    e.emit("Transpose", node, [e.name(node["x"])], perm=list(axes))


@writes("pad")
def _pad(e: Exporter, node: Node) -> None:
    op = node["op"]
    counts = np.asarray([*outside(op.before), *outside(op.after)], np.int64)
    inputs = [e.name(node["x"]), e.weight(f"{node.name}/pads", counts)]
    e.emit("Pad", node, [*inputs, e.weight(f"{node.name}/value", np.array(op.value))])
