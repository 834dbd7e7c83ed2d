"""An ONNX file from the disk, with its weights where they are: in it, or in files beside it."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import InputError
from .initializers import MOST_BYTES, byte_count, require
from .wire import without_numbers


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file as it was read.

    `numbers` tells initializer → its bytes, of those that have no `raw_data` in `proto`.
    """

    content: files.Content
    proto: Any
    numbers: Mapping[int, memoryview]


def load(path: Path, *, external: bool = False) -> OnnxFile:
    """Read a file. `external`: bring in weights that lie in other files. Raises: InputError."""
    onnx = require()
    try:
        size = _size(path)
        if size > MOST_BYTES:
            raise InputError(f"{path} is {size} bytes: an ONNX file may have {MOST_BYTES}")
        content = files.mapped(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    short, places = without_numbers(content)
    proto = _parsed(short, path)
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
    if not outside:
        view = memoryview(content)
        return OnnxFile(content, proto, {at: view[a:z] for at, (a, z) in places.items()})
    if places:
        proto = _parsed(bytes(content), path)
        outside = [t for t in proto.graph.initializer if t.data_location == t.EXTERNAL]
    _bring_in(outside, path, size)
    return OnnxFile(proto.SerializeToString(deterministic=True), proto, {})


def _parsed(content: bytes, path: Path) -> Any:
    """The content as protobuf. Raises: InputError."""
    proto = require().ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's own, which is none of Python's
        raise InputError(f"{path} is no readable ONNX file: {error}") from None
    return proto


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
        count = byte_count(tensor, str(path))
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
