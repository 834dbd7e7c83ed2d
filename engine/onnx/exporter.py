"""Export: our inference graph as an ONNX model.

Images [N,H,W,C] become [N,C,H,W], filters KRSC become [K,C,R,S]; other arrays keep their order.
The number of images is left open. Where an image is flattened in front of a dense layer, the
layer's columns are put into ONNX's order, so that nothing is moved at run time.
"""

from __future__ import annotations

import json
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
from .initializers import MOST_BYTES, require

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

    def call(self, value: Value, name: str) -> None:
        """A value is what the ONNX tensor `name` is."""
        self._names[value] = name

    def flattened(self, value: Value, image: tuple[int, int, int], name: str) -> None:
        """`name` has the features of an image (H, W, C) in ONNX's order."""
        self._names[value], self._flat[value] = name, image

    def image_of(self, value: Value) -> tuple[int, int, int] | None:
        """(H, W, C) if the value is a flattened image, in ONNX's order."""
        return self._flat.get(value)


def outside(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of ours in ONNX's order."""
    return tuple(shape[axis] for axis in NCHW) if len(shape) == 4 else tuple(shape)


from . import export_ops  # noqa: E402, F401
