"""An ONNX file as plain Python: operations, constants, inputs and outputs, checked on the way in.

A file may come from anyone, so nothing in it is believed: sizes are compared with what is there
before anything is allocated, weights in other files must lie beside the file, and whatever does
not fit is told in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .file import load
from .initializers import array, require
from .text import check_text

MOST_NODES = 20_000
OLDEST = 9  # opset
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Op:
    """One operation: its ONNX type, a name for people, and its attributes as Python values."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, or `default` where it is not given."""
        return self.attributes.get(attribute, default)


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """What a file says.

    `inputs` and `outputs`: name → sizes, None for one that is left open; `types`: the inputs'
    element types; `users`: name → the operations that read it.
    """

    source: str
    opset: int
    ops: tuple[Op, ...]
    constants: Mapping[str, np.ndarray]
    inputs: Mapping[str, tuple[int | None, ...] | None]
    outputs: Mapping[str, tuple[int | None, ...] | None]
    types: Mapping[str, str]
    users: Mapping[str, tuple[Op, ...]]


def read(path: Path) -> OnnxModel:
    """Read and check a file. Raises: InputError."""
    file = load(path)
    return parse(file.proto, str(path), file.numbers)


def parse(
    proto: Any, source: str, numbers: Mapping[int, memoryview] | None = None
) -> OnnxModel:  # fmt: skip
    """Check a model and take it apart; `numbers` as in `file.OnnxFile`. Raises: InputError."""
    numbers = numbers or {}
    graph = proto.graph
    if len(graph.node) > MOST_NODES:
        raise InputError(f"{source} has {len(graph.node)} nodes; the most is {MOST_NODES}")
    check_text(proto, source)
    opset = _opset(proto, source)
    strange = sorted({_kind(n) for n in graph.node} - known_kinds())
    if strange:
        told = ", ".join(strange).encode("unicode_escape").decode()
        raise InputError(f"{source} uses operations that are not known here: {told}")
    if proto.functions:
        raise InputError(f"{source} has functions of its own, which are not known here")
    if graph.sparse_initializer:
        raise InputError(f"{source} has sparse weights, which are not known here")
    constants = {
        tensor.name: array(tensor, source, numbers.get(at))
        for at, tensor in enumerate(graph.initializer)
    }
    _check_order(graph.node, {*constants, *(value.name for value in graph.input)}, source)
    _check(proto, source, numbers)
    ops = tuple(_op(node, source) for node in graph.node)
    users: dict[str, list[Op]] = {}
    for op in ops:
        for name in dict.fromkeys(op.inputs):
            users.setdefault(name, []).append(op)
    return OnnxModel(
        source, opset, ops, constants,
        {v.name: _sizes(v) for v in graph.input if v.name not in constants},
        {v.name: _sizes(v) for v in graph.output},
        {v.name: _type(v) for v in graph.input},
        {name: tuple(found) for name, found in users.items()},
    )  # fmt: skip


def known_kinds() -> set[str]:
    """The operations that the importer has."""
    from .importer import KINDS

    return set(KINDS)


def _kind(node: Any) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _opset(proto: Any, source: str) -> int:
    newest = require().defs.onnx_opset_version()
    versions = [entry.version for entry in proto.opset_import if entry.domain in DOMAINS]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        told = ", ".join(map(str, versions)) or "none"
        raise InputError(
            f"{source} must be of one opset from {OLDEST} to {newest} (the newest that the "
            f"installed onnx knows), not {told}"
        )
    return versions[0]


def _check(proto: Any, source: str, numbers: Iterable[int]) -> None:
    """What the onnx package itself holds a model to. Raises: InputError."""
    onnx = require()
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    for at in numbers:  # which are not in it; `array` has compared them with the shape
        checked.graph.initializer[at].dims[:] = [0]
    try:
        onnx.checker.check_model(checked)
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(f"{source} is no valid ONNX model: {told[:300]}") from None


def _check_order(nodes: Sequence[Any], known: set[str], source: str) -> None:
    """Every operation reads what is given or was made before it. Raises: InputError."""
    made = {name for node in nodes for name in node.output}
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                why = (
                    "which only a later one makes: its operations go in a circle or out of order"
                    if name in made
                    else "which is neither an input nor a weight of the file, nor made by any"
                )
                own = _name(node)
                raise InputError(f"{source}: {node.op_type} {own!r} reads {name!r}, {why}")
        known.update(node.output)


def _sizes(value: Any) -> tuple[int | None, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _type(value: Any) -> str:
    helper = require().helper
    if not value.type.HasField("tensor_type"):
        return "no tensor"
    try:
        return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    except (KeyError, TypeError, ValueError):
        return "of unknown type"


def _op(node: Any, source: str) -> Op:
    onnx = require()
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.TENSOR:
            value = array(value, f"{source}: {node.op_type} {node.name}")
        elif isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif attribute.type == onnx.AttributeProto.FLOAT:
            value = float(str(np.float32(value)))  # 0.001, as it was meant, not 0.00100000005
        elif attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            value = tuple(value)
        attributes[attribute.name] = value
    return Op(node.op_type, _name(node), tuple(node.input), tuple(node.output), attributes)


def _name(node: Any) -> str:
    """What an operation is called: its name, its first output, or its kind."""
    return node.name or next(filter(None, node.output), "") or node.op_type
