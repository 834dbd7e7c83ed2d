"""An ONNX file as plain Python: operations, constants, inputs and outputs, checked on the way in.

A file may come from anyone, so nothing in it is believed: sizes are compared with what is there
before anything is allocated, weights in other files must lie beside the file, and whatever does
not fit is told in one line.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .text import check_text

MOST_BYTES = 2**31 - 1  # of a file with its weights: what protobuf can hold
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


def require() -> Any:
    """The `onnx` package. Raises: InputError with the line that installs it."""
    try:
        import onnx
    except ImportError:
        raise InputError(
            "ONNX files need the onnx package: pip install 'cnnengine[onnx]'"
        ) from None
    return onnx


def read(path: Path) -> OnnxModel:
    """Read and check a file. Raises: InputError."""
    return parse(load(path)[0], str(path))


def load(path: Path, *, external: bool = False) -> tuple[Any, bytes]:
    """(the file as protobuf, its content). `external`: bring in weights that lie in other files.

    Raises: InputError.
    """
    onnx = require()
    try:
        size = _size(path)
        if size > MOST_BYTES:
            raise InputError(f"{path} is {size} bytes: an ONNX file may have {MOST_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's own, which is none of Python's
        raise InputError(f"{path} is no readable ONNX file: {error}") from None
    if not proto.graph.node and not proto.graph.output:
        raise InputError(f"{path} is no ONNX file: it has no graph")
    outside = [
        tensor for tensor in proto.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]  # fmt: skip
    if outside and not external:
        raise InputError(
            f"{path} keeps its weights in other files; cnnengine import {path} --out FOLDER puts "
            "them together"
        )
    _bring_in(outside, path, size)
    return proto, content


def _size(path: Path) -> int:
    """Bytes of a file. Raises: OSError; InputError for pipes and devices, which need not end."""
    told = path.stat()
    if not (stat.S_ISREG(told.st_mode) or stat.S_ISDIR(told.st_mode)):
        raise InputError(f"{path} is a pipe or a device, no file")
    return told.st_size


def _bring_in(tensors: Sequence[Any], path: Path, size: int) -> None:
    """Put weights that lie in files beside `path` into the tensors. Raises: InputError."""
    folder = path.resolve().parent
    for tensor in tensors:
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        file = (folder / location.replace("\0", "?")).resolve()
        if not location or not file.is_relative_to(folder):
            raise InputError(
                f"{path}: the weights of {tensor.name!r} lie in {location!r}, outside the folder "
                "of the file"
            )
        count = _bytes(tensor, str(path))
        offset = _number(told.get("offset", "0"), f"{path}: offset of {tensor.name!r}")
        length = _number(told.get("length", str(count)), f"{path}: length of {tensor.name!r}")
        size += count
        if size > MOST_BYTES:
            raise InputError(f"{path} with its weights is larger than {MOST_BYTES} bytes")
        if length != count:
            raise InputError(
                f"{path}: {tensor.name!r} of {list(tensor.dims)} takes {count} bytes, not {length}"
            )
        try:
            _size(file)
            with open(file, "rb") as opened:
                opened.seek(offset)
                content = opened.read(count)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from None
        if len(content) != count:
            raise InputError(
                f"{file} is too short: {tensor.name!r} takes the bytes {offset} to {offset + count}"
            )
        tensor.raw_data = content
        del tensor.external_data[:]
        tensor.data_location = require().TensorProto.DEFAULT


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise InputError(f"{what} must be a whole number, not {text!r}")
    return int(text)


def parse(proto: Any, source: str) -> OnnxModel:
    """Check a model and take it apart. Raises: InputError."""
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
    constants = {tensor.name: array(tensor, source) for tensor in graph.initializer}
    _check_order(graph.node, {*constants, *(value.name for value in graph.input)}, source)
    _check(proto, source)
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


def _check(proto: Any, source: str) -> None:
    """What the onnx package itself holds a model to. Raises: InputError."""
    onnx = require()
    try:
        onnx.checker.check_model(proto)
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


def _bytes(tensor: Any, source: str) -> int:
    """Bytes that a tensor must have by its shape. Raises: InputError."""
    onnx = require()
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{source}: {tensor.name!r} has an unknown element type {tensor.data_type}"
        ) from None
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{source}: {tensor.name!r} has a negative size in {list(tensor.dims)}")
    count = math.prod(tensor.dims) * kind.itemsize
    if count > MOST_BYTES:
        raise InputError(
            f"{source}: {tensor.name!r} of {list(tensor.dims)} would take {count} bytes; the most "
            f"is {MOST_BYTES}"
        )
    return count


def array(tensor: Any, source: str) -> np.ndarray:
    """The numbers of a tensor, if there are as many as its shape says. Raises: InputError."""
    onnx = require()
    count = _bytes(tensor, source)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError(f"{source}: {tensor.name!r} lies in another file")
    if tensor.HasField("raw_data") and len(tensor.raw_data) != count:
        raise InputError(
            f"{source}: {tensor.name!r} of {list(tensor.dims)} takes {count} bytes, not "
            f"{len(tensor.raw_data)}"
        )
    try:
        numbers = onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(f"{source}: {tensor.name!r} is damaged: {told[:200]}") from None
    return numbers


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
