"""The numbers of a tensor in an ONNX file, checked before anything is allocated."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from ..errors import InputError

MOST_BYTES = 2**31 - 1  # of a file with its weights: what protobuf can hold


def require() -> Any:
    """The `onnx` package. Raises: InputError with the line that installs it."""
    try:
        import onnx
    except ImportError:
        raise InputError(
            "ONNX files need the onnx package: pip install 'cnnengine[onnx]'"
        ) from None
    return onnx


def byte_count(tensor: Any, source: str) -> int:
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


def array(tensor: Any, source: str, numbers: memoryview | None = None) -> np.ndarray:
    """The numbers of a tensor, its own or `numbers`, if there are as many as its shape says.

    Raises: InputError.
    """
    onnx = require()
    count = byte_count(tensor, source)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InputError(f"{source}: {tensor.name!r} lies in another file")
    found = len(tensor.raw_data) if numbers is None else len(numbers)
    if (tensor.HasField("raw_data") or numbers is not None) and found != count:
        raise InputError(
            f"{source}: {tensor.name!r} of {list(tensor.dims)} takes {count} bytes, not {found}"
        )
    if numbers is not None:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if sys.byteorder == "little" and kind.kind in "fiub":
            return np.frombuffer(numbers, kind).reshape(tuple(tensor.dims))
        short, tensor = tensor, onnx.TensorProto()
        tensor.CopyFrom(short)
        tensor.raw_data = bytes(numbers)
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(f"{source}: {tensor.name!r} is damaged: {told[:200]}") from None
