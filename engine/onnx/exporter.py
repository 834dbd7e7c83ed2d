"""Export: our inference graph as an ONNX model.

Images [N,H,W,C] become [N,C,H,W], filters KRSC become [K,C,R,S]; other arrays keep their order.
The number of images is left open. Where an image is flattened in front of a dense layer, the
layer's columns are put into ONNX's order, so that nothing is moved at run time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import InputError
from ..fitting import check_fit
from ..ir import Graph, Node, Value
from ..naming import own_naming
from ..network import Description
from .reader import MOST_BYTES, require

OPSET, IR_VERSION = 17, 8
BATCH = 2  # of the graph that is exported; the file leaves it open
NCHW = (0, 3, 1, 2)
PLACES = (0, 2, 3, 1)  # where N, H, W, C stand in ONNX's order
Writer = Callable[["Exporter", Node], None]
WRITERS: dict[str, Writer] = {}


def save(path: Path, description: Description, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a trained network as an ONNX file. Raises: InputError."""
    graph = description.graph(BATCH, training=False)
    check_fit(description.arch, own_naming(graph).shapes, arrays)
    model = convert(graph, arrays)
    told = {
        "classes": list(description.classes), "mean": list(description.mean),
        "std": list(description.std),
    }  # fmt: skip
    model.doc_string = "x: images in 0 … 1, minus mean, divided by std (metadata), per channel"
    require().helper.set_model_props(model, {k: json.dumps(v) for k, v in told.items()})
    content = model.SerializeToString(deterministic=True)
    files.write_bytes(path, content)


def convert(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Any:
    """The ONNX model of an inference graph with these weights and statistics.

    It has passed onnx's checker. Raises: InputError for an op that ONNX files of ours have not.
    """
    onnx = require()
    size = sum(array.size * 4 for array in arrays.values())
    if size > MOST_BYTES:
        raise InputError(f"{graph.name} has {size} bytes of weights: ONNX files hold {MOST_BYTES}")
    exporter = Exporter(graph, arrays)
    for node in graph.nodes:
        if node.op not in WRITERS:
            raise InputError(f"{node.name}: {node.op} cannot be written as ONNX")
        WRITERS[node.op](exporter, node)
    model = exporter.model()
    onnx.checker.check_model(model, full_check=True)
    return model


def writes(*ops: str) -> Callable[[Writer], Writer]:
    """Register how calls of contract functions are written."""

    def register(function: Writer) -> Writer:
        for op in ops:
            WRITERS[op] = function
        return function

    return register


class Exporter:
    """Collects the nodes and weights of one model."""

    def __init__(self, graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
        """`arrays`: parameters and states by name."""
        self.onnx = require()
        self.graph, self.arrays = graph, arrays
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self._flat: dict[Value, tuple[int, int, int]] = {}  # (H, W, C) of flattened images
        self._names: dict[Value, str] = {v: v.name for v in graph.inputs}

    def model(self) -> Any:
        """The finished model."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        for name, value in self.graph.outputs.items():
            if (made := self.name(value)) != name:
                self.node("Identity", name, [made], name)

        def told(name: str, value: Value) -> Any:
            return helper.make_tensor_value_info(name, kind, ("N", *outside(value.shape)[1:]))

        made = helper.make_graph(
            self.nodes, self.graph.name.replace("\n", " "),
            [told(v.name, v) for v in self.graph.inputs],
            [told(name, v) for name, v in self.graph.outputs.items()],
            [self.onnx.numpy_helper.from_array(a, name) for name, a in self.weights.items()],
        )  # fmt: skip
        return helper.make_model(
            made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="cnnengine",
        )  # fmt: skip

    def node(self, kind: str, name: str, inputs: Sequence[str], output: str, **told: Any) -> str:
        """Add an operation; returns the name of its result."""
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], name, **told))
        return output

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add a constant; float numbers become float32."""
        kind = np.float32 if array.dtype.kind != "i" else np.int64
        self.weights[name] = np.ascontiguousarray(array, kind).reshape(array.shape)
        return name

    def emit(self, kind: str, node: Node, inputs: Sequence[str], **told: Any) -> None:
        """Write the call's main result."""
        self._names[node.out] = self.node(kind, node.name, inputs, self.label(node.out), **told)

    def label(self, value: Value) -> str:
        """What a result is called: as the caller knows it, if he reads it."""
        return next((n for n, v in self.graph.outputs.items() if v is value), value.name)

    def name(self, value: Value, *, settled: bool = True) -> str:
        """The ONNX name of a value; `settled` False takes a flattened image as it is."""
        if value.kind in ("param", "state") and value not in self._names:
            array = self.arrays[value.name]
            array = array.transpose(NCHW) if array.ndim == 4 else array
            self._names[value] = self.weight(value.name, array)
        name = self._names[value]
        if settled and value in self._flat:
            h, w, c = self._flat[value]
            parts = self.reshape(name, f"{name}/image", (0, c, h, w))
            turned = self.node("Transpose", "", [parts], f"{name}/turned", perm=PLACES)
            name = self.reshape(turned, f"{name}/features", (0, h * w * c))
        return name

    def reshape(self, name: str, output: str, shape: Sequence[int]) -> str:
        """Add a Reshape; a 0 keeps the size that there was."""
        sizes = self.weight(f"{output}/shape", np.asarray(shape, np.int64))
        return self.node("Reshape", output, [name, sizes], output)

    def bias(self, value: Value | None) -> list[str]:
        """The name of a bias, if there is one."""
        return [] if value is None else [self.name(value)]

    def flattened(self, value: Value, image: tuple[int, int, int], name: str) -> None:
        """`name` has the features of an image (H, W, C) in ONNX's order."""
        self._names[value], self._flat[value] = name, image

    def image_of(self, value: Value) -> tuple[int, int, int] | None:
        """(H, W, C) if the value is a flattened image, in ONNX's order."""
        return self._flat.get(value)


def outside(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of ours in ONNX's order."""
    return tuple(shape[axis] for axis in NCHW) if len(shape) == 4 else tuple(shape)


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
    e._names[node.out] = e.name(node["x"])  # Add and Mul repeat by themselves


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
        e._names[out] = e.reshape(name, e.label(out), (*batch, *out.shape[len(batch) :]))
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
